"""Lightning checkpoint IO that writes every checkpoint atomically, verified, and with a manifest."""

from __future__ import annotations

import copy
import io
import warnings
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from diffusion_lab.checkpoint import DamagedCheckpointError, Manifest, file_hash, load_tensors
from diffusion_lab.checkpoint.files import HashingWriter, step_of
from diffusion_lab.checkpoint.ownership import prepare_replacement
from diffusion_lab.faults import ConfigWarning
from diffusion_lab.files.writing import atomic_write

GATHERED_BYTES = 2**20
"""Size of the pieces that are written and hashed."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a temporary file next to the target, flushes it to the disk, and renames it.

    Whatever happens while saving, a file with the checkpoint's name is either the previous one or the complete new one.
    A manifest is written only after the file was read back and its hash verified.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Save all or nothing.

        Raises:
            OSError: It cannot be written: the disk is full, permission is denied, or the file belongs to another run.
            DamagedCheckpointError: The file read back differs from what was written.
        """
        target = Path(path)
        for may_retry in (True, False):
            try:
                self._save(checkpoint, target)
                return
            # The folder was removed while it was being created or written to.
            except (FileNotFoundError, FileExistsError):
                if not may_retry:
                    raise

    def _save(self, checkpoint: dict[str, Any], target: Path) -> None:
        metadata = checkpoint.get("diffusion_lab", {})
        target.parent.mkdir(parents=True, exist_ok=True)
        if (aside := prepare_replacement(target, metadata.get("run_id"))) is not None:
            warnings.warn(
                f"{target} was damaged: it is kept as {aside}, and written again", ConfigWarning, stacklevel=2
            )
        try:
            with atomic_write(target) as partial, partial.open("wb") as file:
                written = _write(checkpoint, HashingWriter(file))
        except OSError as error:
            raise _not_saved_error(target, error) from error
        if file_hash(target) != written.sha256:
            raise DamagedCheckpointError(f"{target} was saved and reads back damaged: the disk is failing")
        try:
            Manifest(
                step_of(target), written.size, written.sha256, metadata.get("config_hash"), metadata.get("run_id")
            ).write(target)
        except OSError as error:
            raise _not_saved_error(target, error) from error

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return load_tensors(Path(path))


class BackgroundCheckpointIO(AtomicCheckpointIO):
    """Copies the state and writes it safely in the background while training continues, one checkpoint at a time.

    The copy of weights, averages and optimizer state occupies host memory until it is written.
    """

    def __init__(self) -> None:
        super().__init__()
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[None] | None = None

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is being written."""
        return self._writing is not None and not self._writing.done()

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Start to save the current state, after the previous save has finished.

        Raises:
            OSError, DamagedCheckpointError: The previous save failed.
        """
        self.wait()
        self._writing = self._thread.submit(super().save_checkpoint, _copy_to_cpu(checkpoint), path)

    def wait(self) -> None:
        """Wait until the pending checkpoint is complete on the disk.

        Raises:
            OSError, DamagedCheckpointError: It could not be saved. This is raised only once.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def teardown(self) -> None:
        self._thread.shutdown()


def _copy_to_cpu(value: Any) -> Any:
    """Return a copy on the CPU of tensors in plain containers, whose types and attributes are preserved."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        copied = copy.copy(value)
        copied.update((key, _copy_to_cpu(item)) for key, item in value.items())
        return copied
    if isinstance(value, list | tuple):
        return type(value)(map(_copy_to_cpu, value))
    return value


def _write(checkpoint: dict[str, Any], out: HashingWriter) -> HashingWriter:
    try:
        gathered = io.BufferedWriter(out, GATHERED_BYTES)  # torch writes thousands of small pieces
        torch.save(checkpoint, gathered)
        gathered.flush()
    except RuntimeError as error:
        if out.error is not None:  # torch reports a failed write as an internal error
            raise out.error from error
        raise
    return out


def _not_saved_error(target: Path, error: OSError) -> OSError:
    return OSError(error.errno, f"{error.strerror}; the checkpoint was not saved, earlier ones are intact", str(target))
