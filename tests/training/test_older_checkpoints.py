"""Resuming from checkpoints of the first format, which used other formulas."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from diffusion_lab.checkpoint import find_checkpoint
from tests.training.tiny import resume_of, saved, tiny_run


def of_first_format(folder: Path, changes: dict[str, Any]) -> Path:
    """Return the last checkpoint of a run, converted to the first format."""
    tiny_run(folder / "run", changes)
    content = saved(find_checkpoint(folder / "run", "last"))
    content["diffusion_lab"]["format"] = 1
    path = folder / "older.ckpt"
    torch.save(content, path)
    return path


def resumed(folder: Path, changes: dict[str, Any]) -> str:
    """Return the output of a resumed run."""
    older = of_first_format(folder, changes)
    console = Console(file=StringIO(), width=10_000)
    tiny_run(folder / "resumed", {**changes, "training.epochs": 3, **resume_of(older)}, console)
    return console.file.getvalue()


def loss(weighting: str, penalty: str = "mse") -> dict[str, Any]:
    return {"training.loss": {"weighting": {"type": weighting}, "penalty": {"type": penalty}}}


def test_weights_trained_with_other_inputs_are_refused(tmp_path: Path) -> None:
    changes = {"model.diffusion.type": "edm", "model.diffusion.prediction": "v"}
    with pytest.raises(ValueError, match=r"cannot resume from .*\n.* was written before .* reaches sigma = 80"):
        resumed(tmp_path, changes)
    assert not (tmp_path / "resumed").exists()


@pytest.mark.parametrize("changes", [loss("sigmoid"), loss("min_snr", "l1"), loss("p2", "huber")], ids=str)
def test_changed_loss_is_reported(tmp_path: Path, changes: dict[str, Any]) -> None:
    output = resumed(tmp_path, changes)
    assert f"training.loss.weighting {changes['training.loss']['weighting']['type']} with penalty " in output
    assert "earlier validation losses are not comparable" in output


def test_unchanged_loss_is_not_reported(tmp_path: Path) -> None:
    assert "weights noise levels" not in resumed(tmp_path, loss("min_snr"))


def test_measured_sigma_data_of_the_weighting_is_that_of_the_checkpoint(tmp_path: Path) -> None:
    path = of_first_format(tmp_path, {"training.loss": {"weighting": {"type": "edm", "sigma_data": 0.3}}})
    tiny_run(tmp_path / "resumed", {**loss("edm"), "training.epochs": 3, **resume_of(path)})
    config = saved(find_checkpoint(tmp_path / "resumed", "last"))["diffusion_lab"]["config"]
    assert config["training"]["loss"]["weighting"] == {"type": "edm", "sigma_data": 0.3}
