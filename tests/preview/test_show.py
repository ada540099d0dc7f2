"""``preview=true``: its files and figures, and that nothing is trained, created or lost."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from diffusion_lab.config.schema import TrainConfig
from diffusion_lab.diffusion.level import Level
from diffusion_lab.faults import ConfigError, ConfigWarning
from diffusion_lab.preview import batch_size, instead_of_training, learning_rate, show, tune
from diffusion_lab.preview.files import check_replaceable
from diffusion_lab.preview.picture import noisy_images
from diffusion_lab.preview.sheet import MARGIN, Sheet
from diffusion_lab.reports.discovery import is_run
from diffusion_lab.runs.folder import RunFolder
from diffusion_lab.training.fit import train
from diffusion_lab.training.prepare import prepare_run
from tests.training.tiny import tiny_config, tiny_run

QUIET = Console(quiet=True)
PREVIEW = {"preview": True}


@pytest.fixture(autouse=True)
def little_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_size, "SECONDS", 0.0)
    monkeypatch.setattr(batch_size, "FEWEST_BATCHES", 1)
    monkeypatch.setattr(learning_rate, "STEPS", 24)


def hashes(folder: Path) -> dict[str, str]:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def preview_of(folder: Path, changes: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
    text = show.preview(tiny_config(folder, {**PREVIEW, **(changes or {})}), "python train.py", QUIET)
    return text, json.loads((folder / "preview.json").read_text())


class TestPreview:
    def test_writes_a_picture_and_figures_and_nothing_else(self, tmp_path: Path) -> None:
        folder = tmp_path / "run"
        visualization = {"enabled": True, "interval": 1, "num_samples": 3, "guidance_scale": 1.0}
        text, figures = preview_of(folder, {"training.visualization": visualization})
        assert sorted(hashes(tmp_path)) == ["run/preview.json", "run/preview.png"]
        assert not is_run(folder)
        check_replaceable(folder / "preview.png", folder / "preview.json")  # by the next preview
        assert {name: figures[name] for name in ("images", "validation_images", "steps", "epochs", "precision")} == {
            "images": 18,
            "validation_images": 6,
            "steps": 6,
            "epochs": 2,
            "precision": "float32",
        }
        assert figures["images_by_class"] == {"low": 6, "middle": 6, "high": 6}
        assert all(figures["seconds_by_part"][part] > 0 for part in ("training", "validation", "sample_grids"))
        assert figures["seconds"] == pytest.approx(sum(figures["seconds_by_part"].values()), abs=0.05)
        assert figures["checkpoint_bytes"] > 4 * figures["parameters"]
        assert str(folder / "preview.png") in text
        assert text.endswith("python train.py")

    def test_run_starts_in_its_folder(self, tmp_path: Path) -> None:
        preview_of(tmp_path)
        summary = tiny_run(tmp_path)
        assert summary.steps == 6
        assert (tmp_path / "preview.png").is_file()
        config = (tmp_path / "config.yaml").read_text()
        assert "preview" not in config
        assert "tune" not in config

    def test_leaves_a_run_as_it_is_and_says_that_another_could_not_start(self, tmp_path: Path) -> None:
        tiny_run(tmp_path)
        before = hashes(tmp_path)
        with pytest.warns(ConfigWarning, match="could not start"):
            _, figures = preview_of(tmp_path)
        after = hashes(tmp_path)
        assert {name: after[name] for name in before} == before
        assert after.keys() - before.keys() == {"preview.png", "preview.json"}
        assert any("could not start" in warning for warning in figures["warnings"])

    def test_estimates_what_remains_of_a_run(self, tmp_path: Path) -> None:
        tiny_run(tmp_path)
        resume = {"training.epochs": 5, "training.resume": {**RESUME, "checkpoint": str(tmp_path)}}
        _, figures = preview_of(tmp_path, resume)
        assert (figures["epochs"], figures["steps"]) == (3, 9)

    def test_refuses_to_replace_a_picture_of_someone_else(self, tmp_path: Path) -> None:
        Image.new("RGB", (4, 4)).save(tmp_path / "preview.png")
        before = hashes(tmp_path)
        with pytest.raises(ValueError, match=r"preview\.png is in the way"):
            preview_of(tmp_path)
        assert hashes(tmp_path) == before

    def test_settings_do_not_train(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="preview and tune must be false"):
            train(tiny_config(tmp_path, PREVIEW), QUIET)


RESUME = {"enabled": True, "reset_optimizer": False, "reset_scheduler": False}


class TestPicture:
    def test_enlarges_pixels_without_smoothing(self) -> None:
        pixels = torch.arange(64, dtype=torch.uint8).view(1, 1, 8, 8) * 4
        sheet = Sheet(8)
        sheet.images(pixels)
        image = np.asarray(sheet.finished())[MARGIN : MARGIN + 96, MARGIN : MARGIN + 96, 0]
        assert (image == np.kron(pixels[0, 0].numpy(), np.ones((12, 12), dtype=np.uint8))).all()

    def test_noisy_images_have_the_variance_of_the_input(self) -> None:
        noise = torch.randn(64, 1, 16, 16, generator=torch.Generator().manual_seed(0))
        clean = torch.randn(64, 1, 16, 16, generator=torch.Generator().manual_seed(1))
        edm = Level(torch.ones(1), torch.full((1,), 80.0), torch.ones(1))
        assert noisy_images(clean, noise, edm, 0).std().item() == pytest.approx(1, abs=0.05)


class TestTune:
    def test_suggests_a_rate_and_trains_nothing(self, tmp_path: Path) -> None:
        config = tiny_config(tmp_path / "run", {"tune.learning_rate": True})
        text = tune.tune(config, lambda values: f"train {sorted(values)}", QUIET)
        assert sorted(hashes(tmp_path)) == ["run/learning_rate.png"]
        assert "now 0.01" in text
        assert text.endswith("train ['training.optimizer.learning_rate']")

    def test_losses_of_accumulated_batches_are_those_of_steps(self, tmp_path: Path) -> None:
        """An epoch has three batches, of which two make a step; another time more would make one than there are."""
        losses = {}
        for batches in (1, 2, 8):
            changes = {"training.accumulate_batches": batches, "training.optimizer.type": "adam"}
            config = tiny_config(tmp_path / "run", changes)
            run = prepare_run(config, RunFolder.from_settings(config.output), None, Console(quiet=True))
            losses[batches] = learning_rate.measure_losses(run).losses
        assert len(losses[2]) == len(losses[8]) == len(losses[1])
        for accumulated in (losses[2], losses[8]):  # the first steps are too small to matter
            assert np.mean(accumulated[:8]) == pytest.approx(np.mean(losses[1][:8]), rel=0.5)

    def test_suggests_a_batch_size(self, tmp_path: Path) -> None:
        config = tiny_config(tmp_path / "run", {"tune.batch_size": True})
        text = tune.tune(config, lambda values: f"train {values}", QUIET)
        assert not hashes(tmp_path)
        assert "configured" in text
        assert "train {'data.loading.batch_size': " in text

    def test_excludes_preview(self, tmp_path: Path) -> None:
        config: TrainConfig = tiny_config(tmp_path, {**PREVIEW, "tune.batch_size": True})
        with pytest.raises(ConfigError, match="cannot be combined"):
            instead_of_training.run_instead_of_training(config)


def test_command_trains_with_the_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    typed = (
        "experiment=emoji",
        "preview=true",
        "+tune.batch_size=true",
        "data.loading.batch_size=8",
        "--config-dir",
        "x",
    )
    monkeypatch.setattr(instead_of_training, "typed_command", lambda: ("train", typed))
    config = tiny_config(tmp_path, {"preview": True})
    command = instead_of_training.command_with(config, {"data.loading.batch_size": 64})
    assert command.endswith("train.py experiment=emoji --config-dir x data.loading.batch_size=64")


def test_command_turns_off_what_a_file_asks_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instead_of_training, "typed_command", lambda: ("run", ("mine.yaml",)))
    asked = {"preview": False, "tune": {"learning_rate": True, "batch_size": False}}
    command = instead_of_training.command_with(tiny_config(tmp_path, asked), {"training.optimizer.learning_rate": 0.1})
    assert command.endswith("mine.yaml tune.learning_rate=false training.optimizer.learning_rate=0.1")
