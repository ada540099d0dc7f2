"""Through here goes every checkpoint that the trainer saves: whole, verified, with its manifest."""

from __future__ import annotations

import copy
import io
import warnings
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from diffusion_lab.atomic_files import atomic_write
from diffusion_lab.checkpoint import DamagedCheckpointError, Manifest, file_hash, load_tensors
from diffusion_lab.checkpoint.files import HashingWriter, step_of
from diffusion_lab.checkpoint.ownership import make_way
from diffusion_lab.config.faults import ConfigWarning

GATHERED_BYTES = 2**20
"""Written, and hashed, at a time."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target, on the same file system, renames when every byte is on the disk, then says so.

    Whatever happens while saving, a file of the checkpoint's name is either the previous one or the new one, whole;
    and only one that was read back and found to be what was written gets a manifest.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Save all or nothing.

        Raises:
            OSError: It cannot be written: a full disk, a folder without permission, a file of others.
            DamagedCheckpointError: What the disk gives back is not what was written.
        """
        target = Path(path)
        for again in (True, False):
            try:
                self._save(checkpoint, target)
                return
            # Somebody removes the folder while it is written into, or while it is made.
            except (FileNotFoundError, FileExistsError):
                if not again:
                    raise

    def _save(self, checkpoint: dict[str, Any], target: Path) -> None:
        about = checkpoint.get("diffusion_lab", {})
        target.parent.mkdir(parents=True, exist_ok=True)
        if (aside := make_way(target, about.get("run_id"))) is not None:
            warnings.warn(
                f"{target} was damaged: it is kept as {aside}, and written again", ConfigWarning, stacklevel=2
            )
        try:
            with atomic_write(target) as partial, partial.open("wb") as file:
                written = _write(checkpoint, HashingWriter(file))
        except OSError as error:
            raise _unsaved(target, error) from error
        if file_hash(target) != written.sha256:
            raise DamagedCheckpointError(f"{target} was saved and reads back damaged: the disk is failing")
        try:
            Manifest(
                step_of(target), written.size, written.sha256, about.get("config_hash"), about.get("run_id")
            ).write(target)
        except OSError as error:
            raise _unsaved(target, error) from error

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return load_tensors(Path(path))


class BackgroundCheckpointIO(AtomicCheckpointIO):
    """Copies what is to be saved, and writes it safely while training goes on; one at a time.

    The copy lies in the memory of the host until it is written: weights, averages and the state of the optimizer once.
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
        """Begin to save the present state; waits for the one before.

        Raises:
            OSError, DamagedCheckpointError: The one before could not be saved.
        """
        self.wait()
        self._writing = self._thread.submit(super().save_checkpoint, _copied(checkpoint), path)

    def wait(self) -> None:
        """Return when the checkpoint is whole on the disk.

        Raises:
            OSError, DamagedCheckpointError: It could not be saved. This is said once.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def teardown(self) -> None:
        self._thread.shutdown()


def _copied(value: Any) -> Any:
    """A copy, on the CPU, of tensors in plain containers, whose kinds and own attributes stay."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        copied = copy.copy(value)
        copied.update((key, _copied(item)) for key, item in value.items())
        return copied
    if isinstance(value, list | tuple):
        return type(value)(map(_copied, value))
    return value


def _write(checkpoint: dict[str, Any], out: HashingWriter) -> HashingWriter:
    try:
        gathered = io.BufferedWriter(out, GATHERED_BYTES)  # torch writes thousands of small pieces
        torch.save(checkpoint, gathered)
        gathered.flush()
    except RuntimeError as error:
        if out.error is not None:  # which torch takes for an inconsistency of its own
            raise out.error from error
        raise
    return out


def _unsaved(target: Path, error: OSError) -> OSError:
    return OSError(error.errno, f"{error.strerror}; the checkpoint was not saved, earlier ones are whole", str(target))
