"""Location of the cache of an image folder, its ownership, and its lock."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import PIL
import torch

from diffusion_lab.data.cache_files import OTHERS_MAY_WRITE, is_private
from diffusion_lab.data.image_folder import CROPS, ImageFolderSource

FORMAT = 3
"""Version of the cache files and of image decoding; caches of other versions are not opened."""

LOCK_NAME = ".lock"

Report = Callable[[str], None]


def default_cache_dir() -> Path:
    """Return ``diffusion_lab`` in the user's cache folder: ``$XDG_CACHE_HOME``, or ``~/.cache``.

    Raises:
        FileNotFoundError: The user has no home folder, as in some containers.
    """
    cache_home = os.environ.get("XDG_CACHE_HOME")
    if cache_home:
        return Path(cache_home) / "diffusion_lab"
    try:
        return Path.home() / ".cache" / "diffusion_lab"
    except RuntimeError as error:
        raise FileNotFoundError("this user has no home folder, and neither HOME nor XDG_CACHE_HOME is set") from error


@dataclass(frozen=True)
class CacheLocation:
    """Location of the cache of an image folder; the names are fixed before corrupt files are dropped."""

    folder: Path
    settings: str
    files: str

    @classmethod
    def from_source(cls, source: ImageFolderSource, base: Path) -> CacheLocation:
        path = source.path.resolve()
        # with versions, because decoders and filters occasionally change the last bit
        versions = (FORMAT, PIL.__version__, torch.__version__.partition("+")[0])
        form = (source.channels, source.image_size, CROPS[source.crop], source.background, source.max_pixels)
        pixels = (*versions, *form)
        settings = _short(repr((pixels, source.class_names)).encode())
        folder = private_folder(base / f"{path.name}-{_short(os.fsencode(path))}")
        return cls(folder, settings, source.paths.digest()[:16])

    @cached_property
    def cache(self) -> Path:
        return self.folder / f"{self.settings}-{self.files}"


def private_folder(folder: Path) -> Path:
    """Return the folder, or one next to it if it belongs to another user."""
    return folder if _owner(folder) in (None, os.geteuid()) else folder.with_name(f"{folder.name}-{os.geteuid()}")


def _owner(folder: Path) -> int | None:
    """Return the owner of a folder, or of the link in its place; None if there is none."""
    try:
        return folder.lstat().st_uid
    except FileNotFoundError:
        return None


def make_private(folder: Path) -> None:
    """Create the folder, or ensure that nobody else can write to it.

    Raises:
        PermissionError: It belongs to another user.
        OSError: It cannot be created, or its file system does not support permissions.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    state = folder.stat()
    if {state.st_uid, _owner(folder)} != {os.geteuid()}:
        raise PermissionError(f"{folder} belongs to another user, and would be changed by them")
    if state.st_mode & OTHERS_MAY_WRITE:
        folder.chmod(state.st_mode & 0o777 & ~OTHERS_MAY_WRITE)
    if not is_private(folder.stat()):
        raise OSError(
            f"the file system of {folder} keeps neither owners nor permissions of files, so that anybody could change "
            "the images of a cache"
        )


@contextlib.contextmanager
def lock_cache(folder: Path, report: Report, doing: str = "decoding these images") -> Iterator[bool]:
    """Let one process work at a time; yields False if the file system has no locks, so that all processes work.

    Args:
        folder: The folder that contains the lock.
        report: Called with a line before this process waits for another one.
        doing: Work of the other process, for that line.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with os.fdopen(os.open(folder / LOCK_NAME, flags, 0o600), "rb+", buffering=0) as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):  # which of them means that it is held depends on the system
            report(f"another process is {doing} in {folder}: waiting for it")
            fcntl.lockf(file, fcntl.LOCK_EX)
        except OSError:
            yield False
            return
        yield True


def _short(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
