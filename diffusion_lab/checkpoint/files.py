"""Files that are written whole, that tell when they are damaged, and that are found again.

Each checkpoint ``step_00000230.ckpt`` has a manifest ``step_00000230.manifest.json`` beside it, written last: a
checkpoint without one was not finished. The manifest tells size and SHA-256, so one flipped bit is noticed.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, Literal, Self

from diffusion_lab.whole_files import written_whole

STEP_NAME = re.compile(r"step_(\d{8,})\.ckpt")
BEST = "best.ckpt"
"""A link to the best of them, by its validation."""


class DamagedCheckpointError(ValueError):
    """The bytes of a checkpoint are not those that were written."""


@dataclass(frozen=True)
class Manifest:
    """What is known of a checkpoint file before it is read.

    Attributes:
        step: Optimizer steps done.
        size: Of the file, in bytes.
        sha256: Of the file, in hexadecimal.
        config_hash: Of the settings that it was trained with; None where the writer knew none.
    """

    step: int | None
    size: int
    sha256: str
    config_hash: str | None = None

    @staticmethod
    def place(file: Path) -> Path:
        """Where the manifest of a file is."""
        return file.with_suffix(".manifest.json")

    @classmethod
    def of(cls, file: Path) -> Self | None:
        """The manifest of a file, of that behind a link; None where there is none.

        Raises:
            DamagedCheckpointError: It is not a manifest.
        """
        file = file.resolve()
        place = cls.place(file)
        try:
            found = cls(**json.loads(place.read_bytes()))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise DamagedCheckpointError(f"{place} is damaged: it is no manifest of a checkpoint") from error
        if found.step != step_of(file):
            raise DamagedCheckpointError(f"{place} is damaged: it tells of step {found.step}")
        return found

    def write(self, file: Path) -> None:
        """Put it beside its file, all or nothing."""
        with written_whole(self.place(file)) as partial:
            partial.write_text(json.dumps(asdict(self), indent=2) + "\n")


def step_of(file: Path) -> int | None:
    """The optimizer step in the name of a checkpoint; None for other names."""
    found = STEP_NAME.fullmatch(file.name)
    return None if found is None else int(found[1])


def step_name(step: int) -> str:
    """The name of the checkpoint of an optimizer step."""
    return f"step_{step:08d}.ckpt"


class HashingWriter(io.RawIOBase):
    """Hands on what is written, computes its SHA-256 on the way, and remembers why writing failed.

    ``torch.save`` reports a full disk as an inconsistency of its own; the reason is kept in ``error``.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.size = 0
        self.error: OSError | None = None
        self._hash = hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        try:
            self.file.write(view)
        except OSError as error:
            self.error = error
            raise
        self._hash.update(view)
        self.size += len(view)
        return len(view)

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()


def file_hash(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify(file: Path) -> Manifest | None:
    """Check a file against its manifest; None where it has none.

    Raises:
        DamagedCheckpointError: It is shorter or longer than it was, or any bit of it differs.
        FileNotFoundError: It is not there.
    """
    manifest = Manifest.of(file)
    if manifest is None:
        return None
    state = file.stat()
    if state.st_size != manifest.size:
        raise DamagedCheckpointError(f"{file} is damaged: it has {state.st_size} bytes, {manifest.size} were written")
    if _hash_of(file.resolve(), state.st_ino, state.st_mtime_ns) != manifest.sha256:
        raise DamagedCheckpointError(f"{file} is damaged: its SHA-256 is not that of its manifest")
    return manifest


@lru_cache(maxsize=8)
def _hash_of(file: Path, _inode: int, _changed: int) -> str:
    """Once for each state of a file: what has just been chosen for being whole is then read."""
    return file_hash(file)


def steps_in(folder: Path) -> list[Path]:
    """The checkpoints of a folder that have a manifest, the newest step first."""
    found = [file for file in folder.glob("step_*.ckpt") if step_of(file) is not None]
    return sorted((file for file in found if Manifest.place(file).exists()), key=lambda file: -(step_of(file) or 0))


def newest_valid(folder: Path) -> Path | None:
    """The checkpoint of the latest step that is whole; warns of each later one that is not."""
    return next(_valid(steps_in(folder)), None)


def _valid(files: list[Path]) -> Iterator[Path]:
    for file in files:
        try:
            verify(file)
        except (DamagedCheckpointError, OSError) as error:
            warnings.warn(f"{error}; an earlier checkpoint is taken instead", stacklevel=4)
        else:
            yield file


def find_checkpoint(path: str | Path, prefer: Literal["best", "last"] = "best") -> Path:
    """The checkpoint file that ``path`` means: itself, or the preferred one of a run folder, else the other.

    The last one is that of the latest step that is whole. A damaged best one is passed over with a warning.

    Raises:
        FileNotFoundError: With what is there instead.
    """
    path = Path(path)
    if path.is_file():
        return path
    if not path.is_dir():
        raise FileNotFoundError(f"the checkpoint {path} does not exist: give a checkpoint file or a run folder")
    folders = [path, path / "checkpoints", *sorted(folder for folder in path.iterdir() if folder.is_dir())]
    ways: list[Callable[[Path], Path | None]] = [_best_in, newest_valid]
    for find in ways if prefer == "best" else reversed(ways):
        for folder in folders:
            if (found := find(folder)) is not None:
                return found
    raise FileNotFoundError(f"the folder {path} holds no whole checkpoint: was a run saved there?")


def _best_in(folder: Path) -> Path | None:
    best = folder / BEST
    return next(_valid([best]), None) if best.is_file() else None
