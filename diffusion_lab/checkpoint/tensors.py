"""Reads files of tensors and plain containers without trusting them."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import torch

from diffusion_lab.checkpoint.files import DamagedCheckpointError, verify


def load_tensors(path: Path) -> dict[str, Any]:
    """The dict in a file written by ``torch.save``, on the CPU, with nothing but tensors and plain containers in it.

    The bytes are compared with the manifest; where there is none, with the checksums inside the file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged, something else, or asks for code to be run.
    """
    if not path.is_file():
        raise FileNotFoundError(f"the checkpoint {path} does not exist")
    _check_archive(path, read_all=verify(path) is None)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # what bytes that are no checkpoint lead to has no end of kinds
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"{path} is no checkpoint, or a damaged one, or one that runs code: {reason}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is no checkpoint: it holds a {type(content).__name__}, not a dict")
    return content


def _check_archive(path: Path, read_all: bool) -> None:
    """Refuse what is not a zip archive of stored bytes, before torch reserves memory for what it declares.

    torch writes its archives uncompressed, so an archive whose parts claim more than the file has bytes is none of
    torch's: it would make a few kilobytes fill the memory.
    """
    if path.stat().st_size == 0:
        raise DamagedCheckpointError(f"{path} is no checkpoint, or one cut short: it is empty")
    try:
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
            broken = archive.testzip() if read_all and not _swollen(parts, path) else None
    except Exception as error:  # a directory of changed bytes leads zipfile to errors of many kinds
        raise DamagedCheckpointError(f"{path} is no checkpoint, or one cut short: it is no archive of torch") from error
    if _swollen(parts, path):
        raise ValueError(f"{path} is no checkpoint: it declares more bytes than it has")
    if broken is not None:
        raise DamagedCheckpointError(f"{path} is damaged: the checksum of its part {broken} is wrong")


def _swollen(parts: list[zipfile.ZipInfo], path: Path) -> bool:
    packed = any(part.compress_type != zipfile.ZIP_STORED for part in parts)
    return packed or sum(part.file_size for part in parts) > path.stat().st_size
