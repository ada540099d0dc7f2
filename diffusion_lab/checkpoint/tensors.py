"""Reading untrusted files of tensors and plain containers."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from diffusion_lab.checkpoint.damage import damaged_error
from diffusion_lab.checkpoint.files import verify
from diffusion_lab.checkpoint.foreign import READ_KEYS
from diffusion_lab.checkpoint.pickled import MAX_PICKLE_BYTES, ForeignObjectError, check_pickle
from diffusion_lab.checkpoint.pickled_numbers import safe_globals
from diffusion_lab.files.reading import NotRegularFileError, open_regular
from diffusion_lab.runtime.devices import host_memory

MAX_REPEATS = 4
"""Maximum ratio of the tensors' total bytes to those of the file: tied weights use theirs twice."""


def load_tensors(path: Path) -> dict[str, Any]:
    """Load the dict in a file written by ``torch.save`` that holds only tensors and plain containers.

    The content is verified by the manifest, or without one by the checksums inside the file. No code in it is run, and
    declared sizes are compared with the content before memory is allocated.

    NumPy arrays of plain numbers are read as well, and NumPy scalars as Python numbers.

    Returns:
        The dict, with its tensors on the CPU.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged, not a checkpoint, or would run code.
        MemoryError: It is larger than the memory of this machine.
    """
    with open_checkpoint(path) as file:
        _check_archive(file, path, read_all=verify(path) is None)
        file.seek(0)
        try:
            with torch.serialization.safe_globals(_not_yet_safe()):
                content = torch.load(file, map_location="cpu", weights_only=True)
        except OSError:
            raise
        except Exception as error:  # bytes that are not a checkpoint lead to errors of all kinds
            raise _refusal(path, error) from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not a checkpoint: it holds a {type(content).__name__}, not a dict")
    _check_tensors(content, path)
    plain: dict[str, Any] = _with_plain_numbers(content, set())
    return plain


def _not_yet_safe() -> list[Any]:
    """Return the globals to allow temporarily; those that the user has allowed stay allowed."""
    allowed = torch.serialization.get_safe_globals()
    return [entry for entry in safe_globals() if entry not in allowed]


def _with_plain_numbers(value: Any, seen: set[int]) -> Any:
    """Return a value with NumPy scalars replaced by Python numbers; dicts and lists are changed in place."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, tuple) and type(value) is tuple:
        return tuple(_with_plain_numbers(entry, seen) for entry in value)
    if isinstance(value, dict | list) and id(value) not in seen:
        seen.add(id(value))
        for key, entry in value.items() if isinstance(value, dict) else enumerate(value):
            value[key] = _with_plain_numbers(entry, seen)
    return value


def open_checkpoint(path: Path) -> BinaryIO:
    """Open a checkpoint or export, which will be read into memory as a whole.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not a regular file.
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
    """Refuse a file that is not an uncompressed zip archive, or has a malicious pickle, before torch allocates memory.

    torch writes its archives uncompressed, so an archive whose parts declare more bytes than the file has is not from
    torch: a few kilobytes could fill the memory.
    """
    size = os.fstat(file.fileno()).st_size
    if size == 0:
        raise damaged_error(path, "is not a checkpoint, or a truncated one: it is empty")
    try:
        with zipfile.ZipFile(file) as archive:
            parts = archive.infolist()
            swollen = _swollen(parts, size)
            broken = archive.testzip() if read_all and not swollen else None
            pickles = [part for part in parts if part.filename.endswith("/data.pkl")]
            content = archive.read(pickles[0]) if len(pickles) == 1 and not swollen and broken is None else b""
    except Exception as error:  # a directory of changed bytes leads zipfile to errors of many kinds
        raise damaged_error(path, "is not a checkpoint, or a truncated one: it is not an archive of torch") from error
    if swollen:
        raise ValueError(f"{path} is not a checkpoint: it declares more bytes than it has")
    if broken is not None:
        raise damaged_error(path, f"is damaged: the checksum of its part {broken} is wrong")
    try:
        check_pickle(content, _storages(parts))
    except ValueError as error:
        raise _refusal(path, error) from error


def _swollen(parts: list[zipfile.ZipInfo], size: int) -> bool:
    packed = any(part.compress_type != zipfile.ZIP_STORED for part in parts)
    pickles = [part.file_size for part in parts if part.filename.endswith("/data.pkl")]
    return packed or sum(part.file_size for part in parts) > size or max(pickles, default=0) > MAX_PICKLE_BYTES


def _storages(parts: list[zipfile.ZipInfo]) -> dict[str, int]:
    """Return the size of each storage by its key, the part of its name after ``data/``."""
    names = [part.filename for part in parts]
    if len(set(names)) < len(names):
        raise ValueError("two of its parts have the same name")
    split = ((part.filename.partition("/data/"), part.file_size) for part in parts)
    return {key: size for (_, separator, key), size in split if separator}


def _check_tensors(content: dict[str, Any], path: Path) -> None:
    """Refuse tensors with more elements than the file has bytes for: a copy of one could fill the memory."""
    total, seen = 0, dict[int, int]()
    for tensor in _tensors(content):
        if tensor.layout != torch.strided or tensor.device.type != "cpu":
            raise ValueError(f"{path} holds a tensor that is not dense on the CPU: {tensor.layout} on {tensor.device}")
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
    """Yield all tensors, visiting shared containers once."""
    waiting, seen = [root], set[int]()
    while waiting:
        value = waiting.pop()
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, dict | list | tuple | set) and id(value) not in seen:
            seen.add(id(value))
            waiting.extend(value.values() if isinstance(value, dict) else value)


def _refusal(path: Path, error: Exception) -> ValueError:
    message = str(error).strip()
    reason = message.splitlines()[0] if message else type(error).__name__
    if isinstance(error, ForeignObjectError):
        reason = f"{reason[:200]}{_remedy(path)}"
    return ValueError(f"{path} is not a checkpoint, or a damaged one, or one that runs code: {reason}")


def _remedy(path: Path) -> str:
    """Return how the author of a file can save it without unreadable values, as a continuation of their description."""
    plain = str(path.with_name(f"{path.stem}_plain{path.suffix}"))
    return (
        " to create one of its values, which is not allowed. If the file is your own, save it without that value where "
        f"it was made, in Python: torch.save({{k: v for k, v in torch.load({str(path)!r}, weights_only=False).items() "
        f"if k in {READ_KEYS}}}, {plain!r})"
    )
