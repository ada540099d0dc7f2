"""Through here goes every checkpoint that the trainer saves: whole, verified, with its manifest."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from diffusion_lab.checkpoint import DamagedCheckpointError, Manifest, file_hash, load_tensors
from diffusion_lab.checkpoint.files import HashingWriter, step_of
from diffusion_lab.whole_files import written_whole

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
            OSError: It cannot be written: a full disk, a folder without permission.
            DamagedCheckpointError: What the disk gives back is not what was written.
        """
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        Manifest.place(target).unlink(missing_ok=True)  # of a file of the same name, which is about to change
        try:
            with written_whole(target) as partial, partial.open("wb") as file:
                written = _write(checkpoint, HashingWriter(file))
        except OSError as error:
            raise _unsaved(target, error) from error
        if file_hash(target) != written.sha256:
            raise DamagedCheckpointError(f"{target} was saved and reads back damaged: the disk is failing")
        about = checkpoint.get("diffusion_lab", {})
        try:
            Manifest(step_of(target), written.size, written.sha256, about.get("config_hash")).write(target)
        except OSError as error:
            raise _unsaved(target, error) from error

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return load_tensors(Path(path))


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
