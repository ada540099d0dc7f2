"""Where the cache of a folder of images lies, whose it is, and who may write it now."""

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

from diffusion_lab.data.cache_files import OTHERS_MAY_WRITE, is_own
from diffusion_lab.data.image_folder import CROPS, ImageFolderSource

FORMAT = 3
"""Of the files of a cache, and of how pictures become pixels: another number, and no earlier cache is opened."""

LOCK_NAME = ".lock"

Say = Callable[[str], None]


def default_cache_dir() -> Path:
    """``diffusion_lab`` in the user's folder for caches: ``$XDG_CACHE_HOME``, or ``~/.cache``.

    Raises:
        FileNotFoundError: The user has no home folder, as in some containers.
    """
    given = os.environ.get("XDG_CACHE_HOME")
    if given:
        return Path(given) / "diffusion_lab"
    try:
        return Path.home() / ".cache" / "diffusion_lab"
    except RuntimeError as error:
        raise FileNotFoundError("this user has no home folder, and neither HOME nor XDG_CACHE_HOME is set") from error


@dataclass(frozen=True)
class CachePlace:
    """Where the cache of a folder of images lies; the names are fixed before a corrupt file is dropped."""

    folder: Path
    settings: str
    files: str

    @classmethod
    def of(cls, source: ImageFolderSource, base: Path) -> CachePlace:
        path = source.path.resolve()
        # the versions, because decoders and filters change the last bit now and then
        versions = (FORMAT, PIL.__version__, torch.__version__.partition("+")[0])
        form = (source.channels, source.image_size, CROPS[source.crop], source.background, source.max_pixels)
        pixels = (*versions, *form)
        settings = _short(repr((pixels, source.class_names)).encode())
        folder = own_folder(base / f"{path.name}-{_short(os.fsencode(path))}")
        return cls(folder, settings, source.paths.digest()[:16])

    @cached_property
    def cache(self) -> Path:
        return self.folder / f"{self.settings}-{self.files}"


def own_folder(folder: Path) -> Path:
    """Return the folder, or one beside it where it is another user's."""
    return folder if _owner(folder) in (None, os.geteuid()) else folder.with_name(f"{folder.name}-{os.geteuid()}")


def _owner(folder: Path) -> int | None:
    """The user that a folder, or the link in its place, belongs to; None where there is none."""
    try:
        return folder.lstat().st_uid
    except FileNotFoundError:
        return None


def make_own(folder: Path) -> None:
    """Make the folder, or see to it that nobody else can write into it.

    Raises:
        PermissionError: It is another user's.
        OSError: It cannot be made, or its file system keeps no permissions.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    state = folder.stat()
    if {state.st_uid, _owner(folder)} != {os.geteuid()}:
        raise PermissionError(f"{folder} belongs to another user, and would be changed by them")
    if state.st_mode & OTHERS_MAY_WRITE:
        folder.chmod(state.st_mode & 0o777 & ~OTHERS_MAY_WRITE)
    if not is_own(folder.stat()):
        raise OSError(
            f"the file system of {folder} keeps neither owners nor permissions of files, so that anybody could change "
            "the images of a cache"
        )


@contextlib.contextmanager
def locked(folder: Path, say: Say, doing: str = "decoding these images") -> Iterator[bool]:
    """Let one process work at a time. Gives False where the file system knows no locks: all work, one is first.

    Args:
        folder: Its own folder, in which the lock lies.
        say: Told a line before this process waits for another one.
        doing: What the other one is doing, for that line.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with os.fdopen(os.open(folder / LOCK_NAME, flags, 0o600), "rb+", buffering=0) as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):  # it depends on the system which of them says that it is held
            say(f"another process is {doing} in {folder}: waiting for it")
            fcntl.lockf(file, fcntl.LOCK_EX)
        except OSError:
            yield False
            return
        yield True


def _short(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
