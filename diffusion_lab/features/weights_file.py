"""Published weights files: found on this machine or downloaded, and verified by their hash before use."""

from __future__ import annotations

import hashlib
import io
import os
import urllib.request
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from diffusion_lab.console.messages import explain
from diffusion_lab.data.cache_location import default_cache_dir, make_private
from diffusion_lab.files.reading import open_regular
from diffusion_lab.files.writing import atomic_write

Progress = Callable[[int, int], None]

BLOCK = 2**20
TIMEOUT = 30.0
"""Seconds without a response after which the download fails."""

KEYS = "evaluation.weights=PATH, in Python weights=PATH, for python -m diffusion_lab.features --weights PATH"
"""Options and arguments for a weights file, for messages."""


class PublishedFile(NamedTuple):
    """Weights file as published by its authors.

    Attributes:
        name: File name.
        sha256: SHA-256 in hexadecimal.
        url: Download address.
        megabytes: File size.
    """

    name: str
    sha256: str
    url: str
    megabytes: float


def find_weights(features: str, published: PublishedFile, progress: Progress | None = None) -> Path:
    """Return the path of a published file on this machine; download it if it is missing.

    It is searched for in the project's cache folder and in that of ``torch.hub``, which other programs use.

    Args:
        features: Name of the features, for error messages.
        published: The file.
        progress: Called with (bytes downloaded, total bytes).

    Raises:
        FileNotFoundError: It is missing and cannot be downloaded.
        ValueError: The downloaded file has another hash.
    """
    for folder in _weights_folders():
        if (folder / published.name).is_file():
            return folder / published.name
    target = _weights_folders()[0] / published.name
    try:
        make_private(target.parent)
        with atomic_write(target) as partial:
            _download(published.url, partial, progress)
            sha256 = file_sha256(partial)
            if sha256 != published.sha256:
                raise ValueError(_hash_mismatch(features, published.url, sha256, published.sha256))
    except OSError as error:  # including URLError
        reason = getattr(error, "reason", None) or explain(error)
        reason = getattr(reason, "strerror", None) or reason  # the system's message without its number
        raise FileNotFoundError(
            f"features={features} needs the weights {published.name} ({published.megabytes:,.0f} MB), which are not on "
            f"this machine and cannot be downloaded ({reason}): download {published.url} on a machine with a "
            f"network, and pass the file: {KEYS}. features=efflite0 needs no file"
        ) from error
    return target


def is_downloaded(published: PublishedFile) -> bool:
    """Return whether a published file is on this machine."""
    return any((folder / published.name).is_file() for folder in _weights_folders())


def read_weights(features: str, path: Path, sha256: str, hint: str = "") -> dict[str, Tensor]:
    """Read the weights in a file with a known hash. Code in the file is never run.

    Args:
        features: Name of the features, for error messages.
        path: File written by ``torch.save``.
        sha256: Expected SHA-256 in hexadecimal.
        hint: Advice to append to the message about another hash.

    Raises:
        ValueError: The file has another hash, or is not a dictionary of tensors.
        OSError: It cannot be read.
    """
    content = read_verified_bytes(features, path, sha256, hint)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about TorchScript, which is refused
            state_dict: Any = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # bytes that are not weights can lead to any error
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"weights of features={features} must be a state dict of tensors, got {path}: {reason}"
        ) from error
    if not isinstance(state_dict, dict) or not all(isinstance(weight, Tensor) for weight in state_dict.values()):
        raise ValueError(f"weights of features={features} must be a state dict of tensors, got other content in {path}")
    return state_dict


def read_verified_bytes(features: str, path: Path, sha256: str, hint: str = "") -> bytes:
    """Return the bytes of a file after verifying its SHA-256. Raises the same errors as ``read_weights``."""
    try:
        with open_regular(path) as file:
            content = file.read()
    except FileNotFoundError:
        raise FileNotFoundError(
            f"weights of features={features} must be a file, got {str(path)!r}: it does not exist"
        ) from None
    actual = hashlib.sha256(content).hexdigest()
    if actual != sha256.lower():
        raise ValueError(_hash_mismatch(features, str(path), actual, sha256) + hint)
    return content


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    sha256 = hashlib.sha256()
    with open_regular(path) as file:
        while block := file.read(BLOCK):
            sha256.update(block)
    return sha256.hexdigest()


def _hash_mismatch(features: str, origin: str, actual: str, expected: str) -> str:
    return (
        f"weights of features={features} must be the file with SHA-256 {expected}, got {origin} with {actual}: it is "
        "damaged or another file, and is not read"
    )


def _weights_folders() -> list[Path]:
    """Return the folders to search for published files, the project's first."""
    torch_folder = Path(torch.hub.get_dir()) / "checkpoints"
    try:
        return [default_cache_dir() / "weights", torch_folder]
    except FileNotFoundError:  # a user without a home folder
        return [torch_folder]


def _download(url: str, target: Path, progress: Progress | None) -> None:
    with urllib.request.urlopen(url, timeout=TIMEOUT) as response, target.open("wb") as file:
        total, received = int(response.headers.get("Content-Length") or 0), 0
        while block := response.read(BLOCK):
            file.write(block)
            received += len(block)
            if progress is not None:
                progress(received, max(total, received))
        if total and received < total:
            raise OSError(f"only {received} of {total} bytes of {url} arrived")
    os.chmod(target, 0o600)
