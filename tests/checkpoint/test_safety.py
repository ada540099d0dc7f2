"""Files that are damaged, would run code, or would fill the memory are refused without effects."""

from __future__ import annotations

import pickle
import random
import sys
import warnings
import zipfile
from pathlib import Path

import pytest
import torch

from diffusion_lab.checkpoint import load_denoiser, read_checkpoint
from tests.checkpoint.contents import AVERAGED, own_format, same, settings, tree


@pytest.mark.parametrize(
    "content", [b"", b"not a checkpoint", bytes(range(256)), b"PK\x03\x04" + bytes(50), b"\x80\x02K\x01.", b"\x80\x04"]
)
def test_file_that_is_not_a_checkpoint_is_reported(tmp_path, content):
    path = tmp_path / "last.ckpt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"last\.ckpt is (not a checkpoint|damaged)"):
        load_denoiser(path)


def test_damaged_checkpoints_always_raise_a_clear_error(saved):
    """The file is truncated anywhere, or some bytes are changed."""
    path = saved({"a": torch.zeros(3), "b": torch.ones(2)}, "weights.pt")
    whole = path.read_bytes()
    legacy = saved({"a": torch.zeros(3)}, "legacy.pt")
    torch.save({"a": torch.zeros(3)}, legacy, _use_new_zipfile_serialization=False)
    draw = random.Random(0)
    refused = 0
    for source in (whole, legacy.read_bytes(), pickle.dumps({"a": 1})) * 60:
        damaged = bytearray(source[: draw.randrange(len(source))] if draw.random() < 0.5 else source)
        for _ in range(draw.randrange(1, 10)):
            if damaged:
                damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        path.write_bytes(damaged)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                read_checkpoint(path)
            except ValueError as error:
                refused += 1
                assert "weights.pt" in str(error)  # noqa: PT017 - some damage goes unseen
    assert refused > 150


class Bomb:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle"])
@pytest.mark.parametrize("where", ["alone", "beside weights"])
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path, kind, where):
    trace, path = tmp_path / "trace", tmp_path / "last.ckpt"
    content = Bomb(trace) if where == "alone" else {**own_format(), "callbacks": Bomb(trace)}
    if kind == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")
    with pytest.raises(
        ValueError, match=r"last\.ckpt is not a checkpoint, or (a damaged one, or one that|a truncated one)"
    ):
        load_denoiser(path)
    assert not trace.exists()


@pytest.fixture
def custom_network(tmp_path, monkeypatch):
    """Custom module that leaves a trace when it is imported."""
    (tmp_path / "my_lab_checkpoint.py").write_text(
        "from pathlib import Path\n"
        "from diffusion_lab.networks import UNet\n"
        f"Path({str(tmp_path / 'trace')!r}).touch()\n"
        "class Net(UNet):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "trace"
    sys.modules.pop("my_lab_checkpoint", None)


def test_a_class_that_only_the_checkpoint_names_is_not_imported(saved, custom_network):
    path = saved(own_format(model=tree(type="my_lab_checkpoint.Net")))
    assert read_checkpoint(path).model.architecture.type == "my_lab_checkpoint.Net"
    for model in (None, settings()):  # "unet" is no consent to import something else
        with pytest.raises(ValueError, match=r"names the class 'my_lab_checkpoint\.Net'.*trust=my_lab_checkpoint\.Net"):
            load_denoiser(path, model=model)
    assert not custom_network.exists()


def test_a_class_that_the_user_names_as_well_is_imported(saved, custom_network):
    path = saved(own_format(model=tree(type="my_lab_checkpoint.Net")))
    denoiser = load_denoiser(path, model=settings(type="my_lab_checkpoint.Net", model_channels=32))
    assert custom_network.exists()
    assert type(denoiser.network).__name__ == "Net"
    assert same(denoiser, AVERAGED)  # all else is still the checkpoint's


def test_a_class_that_is_trusted_by_name_is_imported(saved, custom_network):
    path = saved(own_format(model=tree(type="my_lab_checkpoint.Net")))
    assert same(load_denoiser(path, trust=["my_lab_checkpoint.Net"]), AVERAGED)
    assert custom_network.exists()


def test_an_archive_that_declares_more_than_it_has_is_refused_before_memory_is_reserved(tmp_path, saved):
    """A few kilobytes of compressed zeros would expand to a gigabyte."""
    honest, packed = saved({"weight": torch.zeros(2**18)}), tmp_path / "packed.ckpt"
    with zipfile.ZipFile(honest) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for part in source.infolist():
            target.writestr(part.filename, source.read(part))
    with pytest.raises(ValueError, match="declares more bytes than it has"):
        read_checkpoint(packed)


def test_a_tensor_that_declares_more_than_its_bytes_is_refused(tmp_path, saved):
    """The number of elements is changed in the pickle that describes the tensor."""
    honest, swollen = saved({"weight": torch.zeros(1000)}), tmp_path / "swollen.ckpt"
    with zipfile.ZipFile(honest) as source, zipfile.ZipFile(swollen, "w", zipfile.ZIP_STORED) as target:
        for part in source.infolist():
            content = source.read(part)
            if part.filename.endswith("data.pkl"):
                assert content.count(b"M\xe8\x03") == 2  # 1000: of the storage, and as the shape
                content = content.replace(b"M\xe8\x03", b"J\xff\xff\xff\x7f")
            target.writestr(part.filename, content)
    with pytest.raises(ValueError, match="is not a checkpoint, or a damaged one"):
        read_checkpoint(swollen)


def test_flipped_bit_is_detected_without_manifest(saved):
    """The checksums in the file, which torch does not check, detect it."""
    path = saved({"weight": torch.zeros(100_000)})
    whole = path.read_bytes()
    draw = random.Random(0)
    for place in (draw.randrange(3000, len(whole) - 3000) for _ in range(20)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="damaged"):
            read_checkpoint(path)
