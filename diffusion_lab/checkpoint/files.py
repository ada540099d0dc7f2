"""Names of checkpoints, the manifest beside each by which damage is noticed, and how they are found again.

Each checkpoint ``step_00000230.ckpt`` has a manifest ``step_00000230.manifest.json`` beside it, written last. It
holds size and SHA-256, so one flipped bit is noticed, and the run that wrote the file.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, Literal, Self, cast

from diffusion_lab.atomic_files import atomic_write
from diffusion_lab.checkpoint.damage import DamagedCheckpointError, damaged
from diffusion_lab.config.faults import ConfigWarning
from diffusion_lab.config.job_record import RECORD
from diffusion_lab.config.sweep_ranking import best_job
from diffusion_lab.safe_files import open_regular, read_json
from diffusion_lab.terminal import printable

STEP_NAME = re.compile(r"step_(\d{8,})\.ckpt")
BEST = "best.ckpt"
"""A link to the best of them, by its validation."""

OWN_CHECKSUMS = "the CRC-32 sums inside it, which cover its tensors and settings but not the archive's directory"
"""What a checkpoint without manifest is verified by."""

LARGEST_MANIFEST = 2**16
"""Bytes of a manifest; more is none."""


@dataclass(frozen=True)
class Manifest:
    """What is known of a checkpoint file before it is read.

    Attributes:
        step: Optimizer steps done.
        size: Of the file, in bytes.
        sha256: Of the file, in hexadecimal.
        config_hash: Of the settings that it was trained with; None where the writer knew none.
        run: Id of the run that wrote it; None where no run of this program is known to have written it.
    """

    step: int | None
    size: int
    sha256: str
    config_hash: str | None = None
    run: str | None = None

    def __post_init__(self) -> None:
        for name, kinds in _MANIFEST_TYPES.items():
            value = getattr(self, name)
            if not isinstance(value, kinds) or isinstance(value, bool):
                raise TypeError(f"{name} must be {kinds}, got {value!r}")

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
            found = cls(**read_json(place, LARGEST_MANIFEST))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, OSError) as error:  # it may hold anything, or be no file at all
            raise damaged(place, "is damaged: it is no manifest of a checkpoint") from error
        if found.step != step_of(file):
            raise damaged(place, f"is damaged: it tells of step {found.step}")
        return found

    def write(self, file: Path) -> None:
        """Put it beside its file, all or nothing."""
        with atomic_write(self.place(file)) as partial:
            partial.write_text(json.dumps(asdict(self), indent=2) + "\n")


_MANIFEST_TYPES: dict[str, type | tuple[type, ...]] = {
    "step": (int, type(None)),
    "size": int,
    "sha256": str,
    "config_hash": (str, type(None)),
    "run": (str, type(None)),
}


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
    """Return the SHA-256 of a regular file, in hexadecimal."""
    state = path.stat()
    return _hash_of(path.resolve(), state.st_ino, state.st_mtime_ns, state.st_ctime_ns)


def verify(file: Path) -> Manifest | None:
    """Check a file against its manifest; None where it has none.

    Raises:
        DamagedCheckpointError: It is shorter or longer than it was, or any bit of it differs.
        FileNotFoundError: It is not there.
    """
    manifest = Manifest.of(file)
    if manifest is None:
        return None
    size = file.stat().st_size
    if size != manifest.size:
        raise damaged(file, f"is damaged: it has {size} bytes, {manifest.size} were written")
    if file_hash(file) != manifest.sha256:
        raise damaged(file, "is damaged: its SHA-256 is not that of its manifest")
    return manifest


@lru_cache(maxsize=256)
def _hash_of(file: Path, _inode: int, _changed: int, _state_changed: int) -> str:
    """Hash once for each state of a file: one that was just verified is then read, and may later be removed."""
    with open_regular(file) as content:
        return hashlib.file_digest(cast("io.BufferedReader", content), "sha256").hexdigest()


def named_steps(folder: Path) -> list[Path]:
    """Return the files of a folder that are named as checkpoints of a step, the newest step first."""
    found = [file for file in folder.glob("step_*.ckpt") if step_of(file) is not None and file.is_file()]
    return sorted(found, key=lambda file: -(step_of(file) or 0))


def steps_in(folder: Path) -> list[Path]:
    """Return the checkpoints of a folder that have a manifest, the newest step first."""
    return [file for file in named_steps(folder) if Manifest.place(file).exists()]


def newest_valid(folder: Path) -> Path | None:
    """Return the checkpoint of the latest step that is whole; warns of each later one that is not.

    One without manifest counts if its own checksums hold and its content is of the step in its name.
    """
    return next(_valid(named_steps(folder)), None)


def read_unlisted(file: Path) -> dict[str, Any]:
    """Verify a checkpoint that has no manifest by its content, and return what it says of itself.

    The CRC-32 sums inside the file cover its tensors and settings, not the archive's directory.

    Raises:
        DamagedCheckpointError: A checksum is wrong.
        ValueError: It is named as a checkpoint of a step, and is none, or one of another step.
    """
    from diffusion_lab.checkpoint.tensors import load_tensors  # which needs this module, and torch

    about = load_tensors(file).get("diffusion_lab")
    about = about if isinstance(about, dict) else {}
    step = step_of(file)
    if step is not None and about.get("step") != step:
        told = f"its content is of step {about['step']}" if "step" in about else "no training run wrote it"
        raise ValueError(f"{file} is not recognized as a checkpoint: it has no manifest, and {told}")
    return about


def find_checkpoint(path: str | Path, prefer: Literal["best", "last"] = "best") -> Path:
    """Return the checkpoint file that ``path`` means: itself, or the preferred one of a run folder, else the other.

    The last one is that of the latest step that is whole. A damaged best one is passed over with a warning. The folder
    of a sweep means its best job, unless the last checkpoint is preferred.

    Raises:
        FileNotFoundError: With what is there instead.
        ValueError: The jobs of a sweep have no best one.
    """
    path = Path(path)
    if path.is_file():
        return path
    if not path.is_dir():
        fault = "is neither a file nor a folder" if os.path.lexists(path) else "does not exist"
        raise FileNotFoundError(f"the checkpoint {path} {fault}: give a checkpoint file or a run folder")
    folders = [path, path / "checkpoints", *sorted(folder for folder in path.iterdir() if folder.is_dir())]
    ways: list[Callable[[Path], Path | None]] = [_best_in, newest_valid]
    for find in ways if prefer == "best" else reversed(ways):
        for folder in folders:
            if (found := find(folder)) is not None:
                return found
    if prefer == "best" and is_sweep(path):
        return find_checkpoint(best_job(path), prefer)
    raise FileNotFoundError(f"the folder {path} holds no whole checkpoint: was a run saved there?")


def is_sweep(path: Path) -> bool:
    """Whether a folder holds those of a sweep's jobs."""
    return path.is_dir() and any((folder / RECORD).is_file() for folder in path.iterdir())


def _best_in(folder: Path) -> Path | None:
    best = folder / BEST
    return next(_valid([best]), None) if best.is_file() else None


def _valid(files: list[Path]) -> Iterator[Path]:
    for file in files:
        try:
            if verify(file) is None:
                read_unlisted(file)
        except (ValueError, OSError) as error:
            fault = error.fault if isinstance(error, DamagedCheckpointError) else error
            warnings.warn(printable(f"{fault}; an earlier checkpoint is taken instead"), ConfigWarning, stacklevel=4)
        else:
            yield file
