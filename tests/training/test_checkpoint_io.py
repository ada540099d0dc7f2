from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer

from diffusion_lab.checkpoint import DamagedCheckpointError, verify
from diffusion_lab.training.checkpoint_io import AtomicCheckpointIO

OLD, NEW = {"weight": torch.zeros(1000)}, {"weight": torch.ones(1000)}


def fail_midway(content: Any, file: Any) -> None:
    file.write(b"half of it")
    file.flush()
    raise OSError(28, "No space left on device")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "made" / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint(OLD, path)
    return path


def test_checkpoint_is_complete_and_leaves_no_other_files(target: Path) -> None:
    AtomicCheckpointIO().save_checkpoint(NEW, target)
    assert torch.equal(AtomicCheckpointIO().load_checkpoint(target)["weight"], NEW["weight"])
    assert names(target.parent) == ["last.ckpt", "last.manifest.json"]


def test_failure_while_writing_keeps_the_previous_file(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "save", fail_midway)
    with pytest.raises(OSError, match="No space left"):
        AtomicCheckpointIO().save_checkpoint(NEW, target)
    assert torch.equal(torch.load(target, weights_only=True)["weight"], OLD["weight"])
    assert names(target.parent) == ["last.ckpt"]


def test_file_is_synced_before_it_is_renamed(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda number: (events.append("fsync"), fsync(number))[1])
    monkeypatch.setattr(Path, "replace", lambda path, to: (events.append("replace"), replace(path, to))[1])
    AtomicCheckpointIO().save_checkpoint(NEW, target)
    assert events == ["fsync", "replace", "fsync"] * 2  # the file, its name, the folder; then the manifest


def test_temporary_file_is_in_the_same_folder_for_an_atomic_rename(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved: list[tuple[Path, Path]] = []
    replace = Path.replace
    monkeypatch.setattr(Path, "replace", lambda path, to: (moved.append((path, Path(to))), replace(path, to))[1])
    AtomicCheckpointIO().save_checkpoint(NEW, target)
    assert [destination.name for _, destination in moved] == ["last.ckpt", "last.manifest.json"]
    assert all(source.parent == destination.parent == target.parent for source, destination in moved)


def test_written_file_is_read_back_and_compared(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffusion_lab.training.checkpoint_io.file_hash", lambda path: "another")
    with pytest.raises(DamagedCheckpointError, match="reads back damaged"):
        AtomicCheckpointIO().save_checkpoint(NEW, target)
    assert verify(target) is None  # it has no manifest


def test_permission_error_is_raised_through_the_trainer(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning suppresses PermissionError in some of its save functions."""

    def refuse(content: Any, file: Any) -> None:
        raise PermissionError(13, "Permission denied")

    class Empty(LightningModule):
        def configure_optimizers(self) -> None:
            return None

    trainer = Trainer(
        accelerator="cpu",
        plugins=[AtomicCheckpointIO()],
        logger=False,
        enable_checkpointing=False,
        default_root_dir=target.parent,
    )
    trainer.strategy.connect(Empty())
    monkeypatch.setattr(torch, "save", refuse)
    with pytest.raises(PermissionError):
        trainer.save_checkpoint(target)
    assert torch.equal(torch.load(target, weights_only=True)["weight"], OLD["weight"])


def test_file_that_runs_code_is_refused(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"state_dict": Trap()}, tmp_path / "trap.ckpt")
    with pytest.raises(ValueError, match=r"trap\.ckpt is not a checkpoint"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "trap.ckpt")
    assert not (tmp_path / "ran").exists()
