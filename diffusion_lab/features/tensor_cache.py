"""Tensors that take long to compute, kept on disk: one file for each name, whole and checked, or computed again.

::

    CACHE_DIR/features/NAME/.lock                 held by the process that computes
    CACHE_DIR/features/NAME/tensors.safetensors   the tensors, what they are of, and the SHA-256 of all that

A cache serves the user who made it. What another user owns or could have written is not read; where NAME is another
user's folder, this one's is NAME-UID.
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


class Cached(NamedTuple):
    """Tensors from a cache.

    Attributes:
        tensors: By their names.
        about: What is known of them.
        file: Where they are kept; None where no cache could be written.
        was_there: Whether they were, before they were asked for.
    """

    tensors: Tensors
    about: dict[str, Any]
    file: Path | None
    was_there: bool


class _OtherIdentityError(Exception):
    """A cache is whole, and of something else."""


def cached_tensors(
    name: str,
    identity: Mapping[str, Any],
    compute: Callable[[], tuple[Tensors, Mapping[str, Any]]],
    say: Report,
    cache_dir: Path | None = None,
    cache_key: str = "cache_dir",
    doing: str = "computing the same features",
) -> Cached:
    """Return tensors from their cache, which is made first where there is none.

    Of several processes one computes, the others wait for it.

    Args:
        name: Of the cache.
        identity: What the tensors are of, as plain values: a cache of anything else is not read.
        compute: Gives the tensors, and what else is to be known of them as plain values.
        say: Called with a line when a cache is damaged or not used, and before waiting.
        cache_dir: Folder of all caches; None: the user's.
        cache_key: The setting or argument that ``cache_dir`` comes from, for messages.
        doing: What another process is doing when this one waits.

    Raises:
        ValueError: ``cache_dir`` cannot be used.

    Warns:
        ConfigWarning: The user's own folder of caches cannot be written, so that nothing is kept.
    """
    try:
        folder = private_folder((cache_dir or default_cache_dir()) / FOLDER / name)
        make_private(folder)
    except OSError as error:
        return _without_cache(error, identity, compute, cache_dir, cache_key)
    file = folder / FILE
    if (found := _read(file, identity, say)) is not None:
        return Cached(*found, file, True)
    with contextlib.ExitStack() as lock:
        try:
            lock.enter_context(lock_cache(folder, say, doing))
        except OSError as error:
            return _without_cache(error, identity, compute, cache_dir, cache_key)
        if (found := _read(file, identity, say, again=True)) is not None:
            return Cached(*found, file, True)
        tensors, more = compute()
        about = {**identity, **more}
        try:
            _write(file, tensors, about)
        except OSError as error:
            warnings.warn(f"{explain(error)}: what was computed is not kept", ConfigWarning, stacklevel=2)
            return Cached(tensors, about, None, False)
    return Cached(tensors, about, file, False)


def _without_cache(
    error: OSError,
    identity: Mapping[str, Any],
    compute: Callable[[], tuple[Tensors, Mapping[str, Any]]],
    cache_dir: Path | None,
    cache_key: str,
) -> Cached:
    """Raises ValueError where the user named the folder; the one that is there by default is not insisted on."""
    if cache_dir is not None:
        raise ValueError(
            f"{cache_key} cannot be used, got {str(cache_dir)!r}: {explain(error)}. Choose a folder of your own"
        ) from error
    rule = f"they are computed each time ({cache_key} chooses another folder)"
    warnings.warn(f"features cannot be cached: {explain(error)}; {rule}", ConfigWarning, stacklevel=3)
    tensors, more = compute()
    return Cached(tensors, {**identity, **more}, None, False)


def _write(file: Path, tensors: Tensors, about: Mapping[str, Any]) -> None:
    remove_partial_files(file.parent)
    text = json.dumps(about, sort_keys=True)
    metadata = {ABOUT: text, CHECKSUM: _checksum(text, tensors)}
    with atomic_write(file) as partial:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial, metadata)
        partial.chmod(0o600)


def _read(
    file: Path, identity: Mapping[str, Any], say: Report, again: bool = False
) -> tuple[Tensors, dict[str, Any]] | None:
    """What the file holds; None where there is none, or none that may be used.

    Args:
        file: The file.
        identity: What it must be of.
        say: Called with the reason why a file is not used.
        again: Whether that was said already.
    """
    try:
        open_private(file).close()
        with safetensors.safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
            # copies: a tensor that is mapped to the file would change, or end the process, if someone wrote over it
            tensors: Tensors = {name: opened.get_tensor(name).clone() for name in opened.keys()}  # noqa: SIM118 (no dict)
        if metadata.get(CHECKSUM) != _checksum(metadata.get(ABOUT, ""), tensors):
            raise ValueError("its checksum is wrong")
        about = parse_json(metadata[ABOUT], str(file))
        if any(about.get(key) != value for key, value in identity.items()):
            raise _OtherIdentityError
    except FileNotFoundError:
        return None
    except _OtherIdentityError:
        if not again:
            say(f"{file} holds what was made of something else: it is recomputed")
        return None
    except UntrustedCacheError as error:
        if not again:
            say(f"{error}: it is not used, but recomputed")
        return None
    except Exception as error:  # what changed bytes lead to has no end of kinds
        if not again:
            words = (str(error).strip().splitlines() or [type(error).__name__])[0]
            say(f"{file} is damaged ({words}): it is recomputed")
        return None
    return tensors, about


def _checksum(text: str, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of what is said of tensors, of their names, types and shapes, and of their bytes."""
    found = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
