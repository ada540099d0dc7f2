"""NumPy numbers and arrays besides the weights are read; anything else of NumPy is refused."""

from __future__ import annotations

import pathlib
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from diffusion_lab.checkpoint.tensors import load_tensors

NUMBERS: dict[str, Any] = {
    "float64": np.float64(1.5),
    "float32": np.float32(0.25),
    "float16": np.float16(0.5),
    "int64": np.int64(-3),
    "uint8": np.uint8(200),
    "bool": np.bool_(True),
    "complex": np.complex64(1 + 2j),
    "swapped": np.arange(3, dtype=">i4"),
    "array": np.arange(6, dtype=np.float32).reshape(2, 3),
    "by columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "no dimension": np.array(2.5),
    "empty": np.zeros((2, 0)),
    "flags": np.array([True, False]),
}


def test_plain_numbers_are_read(saved) -> None:
    found = load_tensors(saved({**NUMBERS, "list": [np.float64(1.0), (np.int64(2),)], "weights": torch.ones(2)}))
    for name, value in NUMBERS.items():
        if isinstance(value, np.ndarray):
            assert found[name].dtype == value.dtype.newbyteorder("=")
            assert np.array_equal(found[name], value)
        else:
            assert type(found[name]) is type(value.item())
            assert found[name] == value
    assert found["list"] == [1.0, (2,)]
    assert torch.equal(found["weights"], torch.ones(2))


def test_globals_are_only_allowed_temporarily(saved) -> None:
    before = set(torch.serialization.get_safe_globals())
    load_tensors(saved({"a": np.float64(1.0)}))
    assert set(torch.serialization.get_safe_globals()) == before
    with torch.serialization.safe_globals([np.dtype]):
        load_tensors(saved({"a": np.float64(1.0)}))
        assert np.dtype in torch.serialization.get_safe_globals()


class Call:
    """Object that pickles as a call, with a state to set afterwards."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.made = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> Any:
        return self.made


SCALAR, RECONSTRUCT = np.float64(0).__reduce__()[0], np.zeros(1).__reduce__()[0]
ORDER = (3, "<", None, None, None, -1, -1, 0)
F8 = Call(np.dtype, "f8", False, True, state=ORDER)


def array(*state: Any) -> Call:
    return Call(RECONSTRUCT, np.ndarray, (0,), b"b", state=state)


HOSTILE = {
    "an array of any size": Call(np.ndarray, (10**15,)),
    "an array with a shape": Call(RECONSTRUCT, np.ndarray, (10**15,), b"b"),
    "an array of another class": Call(RECONSTRUCT, np.recarray, (0,), b"b"),
    "more elements than bytes": array(1, (10**12,), F8, False, bytes(8)),
    "a negative size": array(1, (-1, -1), F8, False, bytes(8)),
    "an array without bytes": array(1, (10**12,), F8, False, [1.0]),
    "objects": np.array([Path("x"), 1], dtype=object),
    "text": np.array(["a", "b"]),
    "a record": np.zeros(2, dtype=[("a", "f8")]),
    "a time": np.datetime64("2020-01-01"),
    "a scalar of an object": Call(SCALAR, Call(np.dtype, "O8", False, True, state=ORDER), pickle.dumps(1)),
    "a scalar of too few bytes": Call(SCALAR, F8, bytes(4)),
    "a dtype of this process itself": Call(np.dtype, "f8", False, False, state=(3, ">", None, None, None, -1, -1, 0)),
    "a dtype with fields": Call(np.dtype, "f8", False, True, state=(3, "<", None, ("a",), {"a": 1}, 8, 1, 0)),
    "bytes of any number": Call(bytes, 10**12),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_other_numpy_calls_are_refused(saved, name) -> None:
    with pytest.raises(ValueError, match=r"last\.ckpt is not a checkpoint.*it (calls|fills) "):
        load_tensors(saved({"a": HOSTILE[name]}))
    assert np.dtype("f8").byteorder == "="


def test_arrays_that_share_their_bytes_are_refused(saved) -> None:
    content = "x" * 10_000
    shared = Call(__import__("_codecs").encode, content, "latin1")
    arrays = [array(1, (10_000,), Call(np.dtype, "i1", False, True, state=(3, "|", *ORDER[2:])), False, shared)]
    load_tensors(saved({"a": arrays}))
    arrays += [array(1, (10_000,), Call(np.dtype, "u1", False, True, state=(3, "|", *ORDER[2:])), False, shared)]
    with pytest.raises(ValueError, match="its arrays share their bytes"):
        load_tensors(saved({"a": arrays}))


@pytest.mark.parametrize(
    ("value", "called"),
    [
        (pathlib.PurePosixPath("runs/a"), r"pathlib(\._local)?\.PurePosixPath"),
        (OmegaConf.create({"lr": 1.0}), "DictConfig"),
    ],
    ids=["path", "settings"],
)
def test_refusal_of_an_object_says_how_to_save_without_it(saved, value, called) -> None:
    path = saved({"model_state_dict": {"w": torch.ones(2)}, "epoch": np.int64(3), "extra": value}, "old.pt")
    with pytest.raises(ValueError, match=rf"old\.pt .*it calls \S*{called} to create one of its values") as refused:
        load_tensors(path)
    exec(str(refused.value).partition("in Python: ")[2], {"torch": torch})
    found = load_tensors(path.with_name("old_plain.pt"))
    assert set(found) == {"model_state_dict", "epoch"}
    assert found["epoch"] == 3


def test_pickle_is_that_of_torch(saved) -> None:
    """Check that the files of the tests above contain the calls that they test."""
    with zipfile.ZipFile(saved({"a": array(1, (1,), F8, False, bytes(8))})) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("data.pkl"))
        assert b"_reconstruct" in archive.read(name)
