"""Files of weights that others publish: found on this machine or fetched, and checked by their hash before use."""

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
"""Seconds without an answer after which a server counts as out of reach."""

KEYS = "evaluation.weights=PATH, in Python weights=PATH, for python -m diffusion_lab.features --weights PATH"
"""How a file is given."""


class PublishedFile(NamedTuple):
    """A file of weights as its authors publish it.

    Attributes:
        name: Of the file.
        sha256: Its SHA-256, in hexadecimal.
        url: Where it is.
        megabytes: Its size.
    """

    name: str
    sha256: str
    url: str
    megabytes: float


def find_weights(features: str, published: PublishedFile, progress: Progress | None = None) -> Path:
    """Return the place of a published file on this machine; what is not there yet is fetched.

    It is looked for in the project's cache folder and in that of ``torch.hub``, where other programs put it.

    Args:
        features: Name of the features, for messages.
        published: The file.
        progress: Called with (bytes fetched, bytes in all).

    Raises:
        FileNotFoundError: It is not there and cannot be fetched; says what to do.
        ValueError: What was fetched is another file.
    """
    for folder in _folders():
        if (folder / published.name).is_file():
            return folder / published.name
    target = _folders()[0] / published.name
    try:
        make_private(target.parent)
        with atomic_write(target) as partial:
            _fetch(published.url, partial, progress)
            found = file_sha256(partial)
            if found != published.sha256:
                raise ValueError(_other_file(features, published.url, found, published.sha256))
    except OSError as error:  # of the network too: URLError is one
        reason = getattr(error, "reason", None) or explain(error)
        reason = getattr(reason, "strerror", None) or reason  # of the system, without its number
        raise FileNotFoundError(
            f"features={features} needs the weights {published.name} ({published.megabytes:,.0f} MB), which are not on "
            f"this machine and cannot be fetched ({reason}): fetch {published.url} on a machine with a network, and "
            f"give the file: {KEYS}. features=efflite0 needs no file"
        ) from error
    return target


def is_on_this_machine(published: PublishedFile) -> bool:
    """Whether a published file need not be fetched."""
    return any((folder / published.name).is_file() for folder in _folders())


def read_weights(features: str, path: Path, sha256: str, hint: str = "") -> dict[str, Tensor]:
    """Read the weights in a file whose hash is known. No code in it is run.

    Args:
        features: Name of the features, for messages.
        path: The file, as ``torch.save`` writes it.
        sha256: SHA-256 that it must have, in hexadecimal.
        hint: What else to do where it has another one.

    Raises:
        ValueError: It is another file, or holds something else than tensors by their names.
        OSError: It cannot be read.
    """
    content = checked_content(features, path, sha256, hint)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that it is a program, which is refused
            found: Any = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # what bytes that are no weights lead to has no end of kinds
        words = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"weights of features={features} must be a state dict of tensors, got {path}: {words}"
        ) from error
    if not isinstance(found, dict) or not all(isinstance(weight, Tensor) for weight in found.values()):
        raise ValueError(
            f"weights of features={features} must be a state dict of tensors, got another content in {path}"
        )
    return found


def checked_content(features: str, path: Path, sha256: str, hint: str = "") -> bytes:
    """Return the bytes of a file that has this SHA-256. Raises as ``read_weights``."""
    try:
        with open_regular(path) as file:
            content = file.read()
    except FileNotFoundError:
        raise FileNotFoundError(
            f"weights of features={features} must be a file, got {str(path)!r}: it does not exist"
        ) from None
    found = hashlib.sha256(content).hexdigest()
    if found != sha256.lower():
        raise ValueError(_other_file(features, str(path), found, sha256) + hint)
    return content


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    found = hashlib.sha256()
    with open_regular(path) as file:
        while block := file.read(BLOCK):
            found.update(block)
    return found.hexdigest()


def _other_file(features: str, where: str, found: str, expected: str) -> str:
    return (
        f"weights of features={features} must be the file with SHA-256 {expected}, got {where} with {found}: it is "
        "damaged or another file, and is not read"
    )


def _folders() -> list[Path]:
    """Where published files may be, the project's own folder first."""
    of_torch = Path(torch.hub.get_dir()) / "checkpoints"
    try:
        return [default_cache_dir() / "weights", of_torch]
    except FileNotFoundError:  # a user without a home folder
        return [of_torch]


def _fetch(url: str, target: Path, progress: Progress | None) -> None:
    with urllib.request.urlopen(url, timeout=TIMEOUT) as answer, target.open("wb") as file:
        total, done = int(answer.headers.get("Content-Length") or 0), 0
        while block := answer.read(BLOCK):
            file.write(block)
            done += len(block)
            if progress is not None:
                progress(done, max(total, done))
        if total and done < total:
            raise OSError(f"only {done} of {total} bytes of {url} arrived")
    os.chmod(target, 0o600)
