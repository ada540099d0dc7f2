"""Checkpoint files in a run folder: their names, their manifests, and how they are verified and found.

Each checkpoint ``step_00000230.ckpt`` has a manifest ``step_00000230.manifest.json`` next to it, written last. It
records the size and SHA-256, so a single flipped bit is detected, and the run that wrote the file.
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

from diffusion_lab.checkpoint.damage import DamagedCheckpointError, damaged_error
from diffusion_lab.console.terminal import printable
from diffusion_lab.faults import ConfigWarning
from diffusion_lab.files.reading import open_regular, read_json
from diffusion_lab.files.writing import atomic_write
from diffusion_lab.sweeps.job_record import RECORD
from diffusion_lab.sweeps.ranking import best_job

STEP_NAME = re.compile(r"step_(\d{8,})\.ckpt")
BEST = "best.ckpt"
"""Link to the checkpoint with the best validation metric."""

OWN_CHECKSUMS = "the CRC-32 sums inside it, which cover its tensors and settings but not the archive's directory"
"""Checksums by which a checkpoint without manifest is verified."""

MAX_MANIFEST_BYTES = 2**16
"""Maximum bytes of a manifest."""


@dataclass(frozen=True)
class Manifest:
    """Description of a checkpoint file, known before it is read.

    Attributes:
        step: Number of optimizer steps done.
        size: Size of the file in bytes.
        sha256: SHA-256 of the file, in hexadecimal.
        config_hash: Hash of the settings that it was trained with; None if unknown.
        run: Id of the run that wrote it; None if no run of this program is known to have written it.
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
    def path_of(file: Path) -> Path:
        """Return the path of a file's manifest."""
        return file.with_suffix(".manifest.json")

    @classmethod
    def read(cls, file: Path) -> Self | None:
        """Read the manifest of a file, or of the file behind a link; None if there is none.

        Raises:
            DamagedCheckpointError: It is not a valid manifest.
        """
        file = file.resolve()
        path = cls.path_of(file)
        try:
            manifest = cls(**read_json(path, MAX_MANIFEST_BYTES))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, OSError) as error:  # it may contain anything, or not be a file at all
            raise damaged_error(path, "is damaged: it is not a manifest of a checkpoint") from error
        if manifest.step != step_of(file):
            raise damaged_error(path, f"is damaged: it describes step {manifest.step}")
        return manifest

    def write(self, file: Path) -> None:
        """Write it next to its file, atomically."""
        with atomic_write(self.path_of(file)) as partial:
            partial.write_text(json.dumps(asdict(self), indent=2) + "\n")


_MANIFEST_TYPES: dict[str, type | tuple[type, ...]] = {
    "step": (int, type(None)),
    "size": int,
    "sha256": str,
    "config_hash": (str, type(None)),
    "run": (str, type(None)),
}


def step_of(file: Path) -> int | None:
    """Return the optimizer step in the name of a checkpoint; None for other names."""
    match = STEP_NAME.fullmatch(file.name)
    return None if match is None else int(match[1])


def step_name(step: int) -> str:
    """Return the file name of the checkpoint of an optimizer step."""
    return f"step_{step:08d}.ckpt"


class HashingWriter(io.RawIOBase):
    """Write to a file, compute the SHA-256 on the way, and remember why writing failed.

    ``torch.save`` reports a full disk as an internal inconsistency; the real reason is kept in ``error``.
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
    """Verify a file against its manifest and return the manifest; None if it has none.

    Raises:
        DamagedCheckpointError: Its size or any bit of it has changed.
        FileNotFoundError: It does not exist.
    """
    manifest = Manifest.read(file)
    if manifest is None:
        return None
    size = file.stat().st_size
    if size != manifest.size:
        raise damaged_error(file, f"is damaged: it has {size} bytes, {manifest.size} were written")
    if file_hash(file) != manifest.sha256:
        raise damaged_error(file, "is damaged: its SHA-256 does not match its manifest")
    return manifest


@lru_cache(maxsize=256)
def _hash_of(file: Path, _inode: int, _modified: int, _changed: int) -> str:
    """Hash once per state of a file: a file that was just verified is then read, and may later be removed."""
    with open_regular(file) as content:
        return hashlib.file_digest(cast("io.BufferedReader", content), "sha256").hexdigest()


def named_steps(folder: Path) -> list[Path]:
    """Return the files of a folder that are named as checkpoints of a step, the newest step first."""
    files = [file for file in folder.glob("step_*.ckpt") if step_of(file) is not None and file.is_file()]
    return sorted(files, key=lambda file: -(step_of(file) or 0))


def steps_in(folder: Path) -> list[Path]:
    """Return the checkpoints of a folder that have a manifest, the newest step first."""
    return [file for file in named_steps(folder) if Manifest.path_of(file).exists()]


def newest_valid(folder: Path) -> Path | None:
    """Return the valid checkpoint of the latest step; warns about each later one that is not valid.

    A checkpoint without manifest is valid if its own checksums match and its content is that of the step in its name.
    """
    return next(_valid(named_steps(folder)), None)


def read_without_manifest(file: Path) -> dict[str, Any]:
    """Verify a checkpoint without manifest by its content, and return its metadata.

    The CRC-32 sums inside the file cover its tensors and settings, not the archive's directory.

    Raises:
        DamagedCheckpointError: A checksum is wrong.
        ValueError: It has the name of a step's checkpoint, but is none, or that of another step.
    """
    from diffusion_lab.checkpoint.tensors import load_tensors  # which needs this module, and torch

    metadata = load_tensors(file).get("diffusion_lab")
    metadata = metadata if isinstance(metadata, dict) else {}
    step = step_of(file)
    if step is not None and metadata.get("step") != step:
        reason = f"its content is that of step {metadata['step']}" if "step" in metadata else "no training run wrote it"
        raise ValueError(f"{file} is not recognized as a checkpoint: it has no manifest, and {reason}")
    return metadata


def find_checkpoint(path: str | Path, prefer: Literal["best", "last"] = "best") -> Path:
    """Return the checkpoint file for ``path``: the file itself, or the preferred one of a run folder, else the other.

    The last checkpoint is the valid one of the latest step. A damaged best checkpoint is skipped with a warning. For
    the folder of a sweep, its best job is used, unless the last checkpoint is preferred.

    Raises:
        FileNotFoundError: There is no checkpoint; the message describes what is at the path.
        ValueError: The jobs of a sweep have no best one.
    """
    path = Path(path)
    if path.is_file():
        return path
    if not path.is_dir():
        fault = "is neither a file nor a folder" if os.path.lexists(path) else "does not exist"
        raise FileNotFoundError(f"the checkpoint {path} {fault}: give a checkpoint file or a run folder")
    folders = [path, path / "checkpoints", *sorted(folder for folder in path.iterdir() if folder.is_dir())]
    finders: list[Callable[[Path], Path | None]] = [_best_in, newest_valid]
    for find in finders if prefer == "best" else reversed(finders):
        for folder in folders:
            if (checkpoint := find(folder)) is not None:
                return checkpoint
    if prefer == "best" and is_sweep(path):
        return find_checkpoint(best_job(path), prefer)
    raise FileNotFoundError(f"the folder {path} holds no valid checkpoint: was a run saved there?")


def is_sweep(path: Path) -> bool:
    """Return whether a folder contains the job folders of a sweep."""
    return path.is_dir() and any((folder / RECORD).is_file() for folder in path.iterdir())


def _best_in(folder: Path) -> Path | None:
    best = folder / BEST
    return next(_valid([best]), None) if best.is_file() else None


def _valid(files: list[Path]) -> Iterator[Path]:
    for file in files:
        try:
            if verify(file) is None:
                read_without_manifest(file)
        except (ValueError, OSError) as error:
            fault = error.fault if isinstance(error, DamagedCheckpointError) else error
            warnings.warn(printable(f"{fault}; an earlier checkpoint is used instead"), ConfigWarning, stacklevel=4)
        else:
            yield file
