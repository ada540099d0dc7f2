"""Disk without enough space for the checkpoints of a run."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from diffusion_lab.faults import ConfigWarning
from tests.training.tiny import tiny_run


def disk(monkeypatch: pytest.MonkeyPatch, free: int, total: int = 10**12) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(total=total, free=free))


def checkpoint_size(folder: Path, changes: dict[str, Any]) -> int:
    tiny_run(folder, {"training.epochs": 1, **changes})
    return next((folder / "checkpoints").glob("step_*.ckpt")).stat().st_size


@pytest.mark.parametrize("save_optimizer", [True, False])
def test_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save_optimizer: bool
) -> None:
    changes = {"training.checkpointing.save_optimizer": save_optimizer}
    disk(monkeypatch, checkpoint_size(tmp_path / "measured", changes) // 4)
    with pytest.raises(ValueError, match=r"^output\.base_dir must have room for checkpoints, .*: free some space, or"):
        tiny_run(tmp_path / "run", changes)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "tests.training.tiny.BiasPlan"])
def test_checkpoints_that_might_fit_are_not_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str
) -> None:
    changes = {"training.optimizer.type": optimizer}
    disk(monkeypatch, checkpoint_size(tmp_path / "measured", changes))
    assert tiny_run(tmp_path / "run", {"training.epochs": 1, **changes}) is not None


def test_replaced_checkpoints_count_as_free_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_run(tmp_path, {"training.epochs": 1})
    disk(monkeypatch, 1000)
    assert tiny_run(tmp_path, {"training.epochs": 1, "output.overwrite": True}) is not None


def test_file_system_of_unknown_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk(monkeypatch, 0, total=0)
    assert tiny_run(tmp_path, {"training.epochs": 1}) is not None


def test_warning_if_kept_checkpoints_do_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {"training.epochs": 4, "training.checkpointing.save_frequency": 1}
    disk(monkeypatch, checkpoint_size(tmp_path / "measured", {}))
    message = (
        r"keeps 4 checkpoints of at least .* free: the run fails when it is full\. training\.checkpointing\.keep_last"
    )
    with pytest.warns(ConfigWarning, match=message):
        tiny_run(tmp_path / "all", changes)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*checkpoints of at least")
        tiny_run(tmp_path / "one", {**changes, "training.checkpointing.keep_last": 1})
        tiny_run(tmp_path / "best", {**changes, "training.checkpointing.save_best_only": True})
