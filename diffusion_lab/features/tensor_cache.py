"""Disk cache of tensors that take long to compute: one file per name, recomputed if incomplete or damaged.

::

    CACHE_DIR/features/NAME/.lock                 lock of the process that computes
    CACHE_DIR/features/NAME/tensors.safetensors   the tensors, their identity, and the SHA-256 of both

A cache is private to the user who created it. Files that another user owns or could have written are not read; if NAME
is a folder of another user, NAME-UID is used instead.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor

from diffusion_lab.console.messages import explain
from diffusion_lab.data.cache_files import UntrustedCacheError, open_private
from diffusion_lab.data.cache_location import Report, default_cache_dir, lock_cache, make_private, private_folder
from diffusion_lab.faults import ConfigWarning
from diffusion_lab.files.reading import parse_json
from diffusion_lab.files.writing import atomic_write, remove_partial_files

FOLDER, FILE = "features", "tensors.safetensors"
ABOUT, CHECKSUM = "about", "sha256"

Tensors = dict[str, Tensor]


class CachedTensors(NamedTuple):
    """Tensors from a cache.

    Attributes:
        tensors: Tensors by name.
        about: Identity and metadata of the tensors.
        file: File of the cache; None if none could be written.
        was_cached: Whether they were read from an existing cache.
    """

    tensors: Tensors
    about: dict[str, Any]
    file: Path | None
    was_cached: bool


class _IdentityMismatchError(Exception):
    """A cache is valid, but has another identity."""


def cached_tensors(
    name: str,
    identity: Mapping[str, Any],
    compute: Callable[[], tuple[Tensors, Mapping[str, Any]]],
    report: Report,
    cache_dir: Path | None = None,
    cache_key: str = "cache_dir",
    doing: str = "computing the same features",
) -> CachedTensors:
    """Return tensors from the cache; compute and cache them if they are missing.

    If several processes need the same tensors, one computes them and the others wait for it.

    Args:
        name: Name of the cache.
        identity: Description of the tensors as plain values; a cache with another identity is not read.
        compute: Returns the tensors, and metadata as plain values.
        report: Called with a message if a cache is damaged or not used, and before waiting for another process.
        cache_dir: Cache folder; None for that of the user.
        cache_key: Setting or argument that ``cache_dir`` comes from, for error messages.
        doing: Work of the other process, for the message before waiting.

    Raises:
        ValueError: ``cache_dir`` cannot be used.

    Warns:
        ConfigWarning: The default cache folder cannot be written, so nothing is cached.
    """
    try:
        folder = private_folder((cache_dir or default_cache_dir()) / FOLDER / name)
        make_private(folder)
    except OSError as error:
        return _compute_uncached(error, identity, compute, cache_dir, cache_key)
    file = folder / FILE
    if (cached := _read(file, identity, report)) is not None:
        return CachedTensors(*cached, file, True)
    with contextlib.ExitStack() as lock:
        try:
            lock.enter_context(lock_cache(folder, report, doing))
        except OSError as error:
            return _compute_uncached(error, identity, compute, cache_dir, cache_key)
        if (cached := _read(file, identity, report, silent=True)) is not None:
            return CachedTensors(*cached, file, True)
        tensors, metadata = compute()
        about = {**identity, **metadata}
        try:
            _write(file, tensors, about)
        except OSError as error:
            warnings.warn(f"{explain(error)}: the result is not cached", ConfigWarning, stacklevel=2)
            return CachedTensors(tensors, about, None, False)
    return CachedTensors(tensors, about, file, False)


def _compute_uncached(
    error: OSError,
    identity: Mapping[str, Any],
    compute: Callable[[], tuple[Tensors, Mapping[str, Any]]],
    cache_dir: Path | None,
    cache_key: str,
) -> CachedTensors:
    """Compute without a cache, if the folder is the default one; raise ValueError if the user chose it."""
    if cache_dir is not None:
        raise ValueError(
            f"{cache_key} cannot be used, got {str(cache_dir)!r}: {explain(error)}. Choose a writable folder"
        ) from error
    consequence = f"they are computed each time ({cache_key} chooses another folder)"
    warnings.warn(f"features cannot be cached: {explain(error)}; {consequence}", ConfigWarning, stacklevel=3)
    tensors, metadata = compute()
    return CachedTensors(tensors, {**identity, **metadata}, None, False)


def _write(file: Path, tensors: Tensors, about: Mapping[str, Any]) -> None:
    remove_partial_files(file.parent)
    text = json.dumps(about, sort_keys=True)
    metadata = {ABOUT: text, CHECKSUM: _checksum(text, tensors)}
    with atomic_write(file) as partial:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial, metadata)
        partial.chmod(0o600)


def _read(
    file: Path, identity: Mapping[str, Any], report: Report, silent: bool = False
) -> tuple[Tensors, dict[str, Any]] | None:
    """Return the tensors and metadata in a file; None if there is none, or it cannot be used.

    Args:
        file: The file.
        identity: Expected identity.
        report: Called with the reason if a file is not used.
        silent: Whether to skip these calls.
    """
    try:
        open_private(file).close()
        with safetensors.safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
            # copies: a tensor that is mapped to the file would change, or end the process, if someone overwrote it
            tensors: Tensors = {name: opened.get_tensor(name).clone() for name in opened.keys()}  # noqa: SIM118 (no dict)
        if metadata.get(CHECKSUM) != _checksum(metadata.get(ABOUT, ""), tensors):
            raise ValueError("its checksum is wrong")
        about = parse_json(metadata[ABOUT], str(file))
        if any(about.get(key) != value for key, value in identity.items()):
            raise _IdentityMismatchError
    except FileNotFoundError:
        return None
    except _IdentityMismatchError:
        if not silent:
            report(f"{file} is the cache of other data: it is recomputed")
        return None
    except UntrustedCacheError as error:
        if not silent:
            report(f"{error}: it is not used, but recomputed")
        return None
    except Exception as error:  # changed bytes can lead to any error
        if not silent:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            report(f"{file} is damaged ({reason}): it is recomputed")
        return None
    return tensors, about


def _checksum(text: str, tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of the metadata and of the names, dtypes, shapes and bytes of tensors."""
    sha256 = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        sha256.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        sha256.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
    return sha256.hexdigest()
