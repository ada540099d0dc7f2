"""Reads files of tensors and plain containers without trusting them."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from diffusion_lab.checkpoint.damage import damaged
from diffusion_lab.checkpoint.files import verify
from diffusion_lab.checkpoint.foreign import READ
from diffusion_lab.checkpoint.pickled import MAX_PICKLE_BYTES, ForeignObjectError, check_pickle
from diffusion_lab.checkpoint.pickled_numbers import safe_globals
from diffusion_lab.devices import host_memory
from diffusion_lab.safe_files import NotRegularFileError, open_regular

MAX_REPEATS = 4
"""How often the tensors of a file may use its bytes, all of them together: tied weights use theirs twice."""


def load_tensors(path: Path) -> dict[str, Any]:
    """Load the dict in a file written by ``torch.save``, with nothing but tensors and plain containers in it.

    The bytes are compared with the manifest, or where there is none with the checksums inside the file. No code in it
    is run, and what it declares is compared with what it contains before memory is taken for it.

    Arrays of numpy of plain numbers are read as well, and its scalars as numbers of Python.

    Returns:
        The dict, its tensors on the CPU.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged, something else, or asks for code to be run.
        MemoryError: It is larger than the memory of this machine.
    """
    with opened(path) as file:
        _check_archive(file, path, read_all=verify(path) is None)
        file.seek(0)
        try:
            with torch.serialization.safe_globals(_not_yet_safe()):
                content = torch.load(file, map_location="cpu", weights_only=True)
        except OSError:
            raise
        except Exception as error:  # what bytes that are no checkpoint lead to has no end of kinds
            raise _refusal(path, error) from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is no checkpoint: it holds a {type(content).__name__}, not a dict")
    _check_tensors(content, path)
    plain: dict[str, Any] = _with_plain_numbers(content, set())
    return plain


def _not_yet_safe() -> list[Any]:
    """What must be allowed for a moment; what the user has allowed stays so."""
    allowed = torch.serialization.get_safe_globals()
    return [entry for entry in safe_globals() if entry not in allowed]


def _with_plain_numbers(value: Any, seen: set[int]) -> Any:
    """A value with Python's numbers in place of scalars of numpy, in place in dicts and lists."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, tuple) and type(value) is tuple:
        return tuple(_with_plain_numbers(entry, seen) for entry in value)
    if isinstance(value, dict | list) and id(value) not in seen:
        seen.add(id(value))
        for key, entry in value.items() if isinstance(value, dict) else enumerate(value):
            value[key] = _with_plain_numbers(entry, seen)
    return value


def opened(path: Path) -> BinaryIO:
    """Open a checkpoint or export, which is read into memory as a whole.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is something else than a file.
        MemoryError: It is larger than the memory of this machine.
    """
    try:
        file = open_regular(path)
    except FileNotFoundError:
        raise FileNotFoundError(f"the checkpoint {path} does not exist") from None
    except NotRegularFileError as error:
        raise ValueError(
            f"the checkpoint {path} is not a regular file: give a checkpoint file or a run folder"
        ) from error
    size, memory = os.fstat(file.fileno()).st_size, host_memory()
    if size > memory:
        file.close()
        raise MemoryError(
            f"{path} has {size / 2**30:.0f} GiB and is read as a whole: the memory of this machine has "
            f"{memory / 2**30:.0f} GiB"
        )
    return file


def _check_archive(file: BinaryIO, path: Path, read_all: bool) -> None:
    """Refuse what is no zip archive of stored bytes, or whose pickle is a trap, before torch reserves memory.

    torch writes its archives uncompressed, so an archive whose parts claim more than the file has bytes is none of
    torch's: it would make a few kilobytes fill the memory.
    """
    size = os.fstat(file.fileno()).st_size
    if size == 0:
        raise damaged(path, "is no checkpoint, or one cut short: it is empty")
    try:
        with zipfile.ZipFile(file) as archive:
            parts = archive.infolist()
            swollen = _swollen(parts, size)
            broken = archive.testzip() if read_all and not swollen else None
            pickles = [part for part in parts if part.filename.endswith("/data.pkl")]
            content = archive.read(pickles[0]) if len(pickles) == 1 and not swollen and broken is None else b""
    except Exception as error:  # a directory of changed bytes leads zipfile to errors of many kinds
        raise damaged(path, "is no checkpoint, or one cut short: it is no archive of torch") from error
    if swollen:
        raise ValueError(f"{path} is no checkpoint: it declares more bytes than it has")
    if broken is not None:
        raise damaged(path, f"is damaged: the checksum of its part {broken} is wrong")
    try:
        check_pickle(content, _storages(parts))
    except ValueError as error:
        raise _refusal(path, error) from error


def _swollen(parts: list[zipfile.ZipInfo], size: int) -> bool:
    packed = any(part.compress_type != zipfile.ZIP_STORED for part in parts)
    pickles = [part.file_size for part in parts if part.filename.endswith("/data.pkl")]
    return packed or sum(part.file_size for part in parts) > size or max(pickles, default=0) > MAX_PICKLE_BYTES


def _storages(parts: list[zipfile.ZipInfo]) -> dict[str, int]:
    """The size of each storage by its key, which is the name of its part behind ``data/``."""
    names = [part.filename for part in parts]
    if len(set(names)) < len(names):
        raise ValueError("two of its parts have one name")
    split = ((part.filename.partition("/data/"), part.file_size) for part in parts)
    return {key: size for (_, found, key), size in split if found}


def _check_tensors(content: dict[str, Any], path: Path) -> None:
    """Refuse tensors that stand for more elements than the file has bytes for: a copy of one could fill the memory."""
    total, seen = 0, dict[int, int]()
    for tensor in _tensors(content):
        if tensor.layout != torch.strided or tensor.device.type != "cpu":
            raise ValueError(f"{path} holds a tensor that is no plain one: {tensor.layout} on {tensor.device}")
        size, storage = tensor.numel() * tensor.element_size(), tensor.untyped_storage()
        if size > storage.nbytes():
            raise ValueError(
                f"{path} holds a tensor of shape {tuple(tensor.shape)} that repeats {storage.nbytes()} bytes: save a "
                "contiguous copy"
            )
        total += size
        seen[storage.data_ptr()] = storage.nbytes()
    if total > MAX_REPEATS * sum(seen.values()):
        raise ValueError(f"{path} holds tensors of {total} bytes that share {sum(seen.values())} bytes: save copies")


def _tensors(root: object) -> Iterator[Tensor]:
    """All tensors, shared containers visited once."""
    waiting, seen = [root], set[int]()
    while waiting:
        value = waiting.pop()
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, dict | list | tuple | set) and id(value) not in seen:
            seen.add(id(value))
            waiting.extend(value.values() if isinstance(value, dict) else value)


def _refusal(path: Path, error: Exception) -> ValueError:
    words = str(error).strip()
    reason = words.splitlines()[0] if words else type(error).__name__
    if isinstance(error, ForeignObjectError):
        reason = f"{reason[:200]}{_remedy(path)}"
    return ValueError(f"{path} is no checkpoint, or a damaged one, or one that runs code: {reason}")


def _remedy(path: Path) -> str:
    """How the author of a file saves it without values that are not read, in words that go on from what those are."""
    plain = str(path.with_name(f"{path.stem}_plain{path.suffix}"))
    return (
        " to make one of its values, which is not done. If the file is your own, save it without that where it was "
        f"made, in Python: torch.save({{k: v for k, v in torch.load({str(path)!r}, weights_only=False).items() "
        f"if k in {READ}}}, {plain!r})"
    )
