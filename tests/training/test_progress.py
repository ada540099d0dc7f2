from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console

from diffusion_lab.training.callbacks import TrainingProgress
from tests.training.tiny import tiny_fit


def console(terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=120, color_system=None)


def text_of(shown: Console) -> str:
    assert isinstance(shown.file, io.StringIO)
    return shown.file.getvalue()


def test_one_line_per_epoch_without_a_terminal(tmp_path: Path) -> None:
    shown = console(terminal=False)
    tiny_fit(tmp_path, [TrainingProgress(shown)])
    lines = text_of(shown).splitlines()
    pattern = r"epoch {}/2  loss \d\.\d{{4}}  val/loss \d\.\d{{4}}  \d+ images/s"
    assert len(lines) == 2
    assert all(re.fullmatch(pattern.format(number), line) for number, line in enumerate(lines, start=1))


def test_one_bar_on_a_terminal(tmp_path: Path) -> None:
    shown = console(terminal=True)
    tiny_fit(tmp_path, [TrainingProgress(shown)])
    text = text_of(shown)
    assert re.search(r"epoch 2/2.*loss \d\.\d{4}\s+\d+ images/s.*done,.*0:00:00 left", text)
    assert "val/loss" not in text  # the lines are printed only if there is no bar


def test_bar_shows_the_watched_metric_if_it_is_not_the_loss(tmp_path: Path) -> None:
    shown = console(terminal=True)
    tiny_fit(tmp_path, [TrainingProgress(shown, "val/loss_raw")])
    assert re.search(r"loss \d\.\d{4}\s+val/loss_raw \d\.\d{4}\s+\d+ images/s", text_of(shown))


def test_speed_counts_only_training_images(tmp_path: Path) -> None:
    progress = TrainingProgress(console(terminal=False))
    tiny_fit(tmp_path, [progress])
    assert progress.images == 2 * 18
    assert progress.images_per_second == pytest.approx(36 / progress.seconds)


def test_bar_is_stopped_by_a_failure(tmp_path: Path) -> None:
    class Fail(Callback):
        def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
            raise RuntimeError("out of luck")

    shown = console(terminal=True)
    with pytest.raises(RuntimeError, match="out of luck"):
        tiny_fit(tmp_path, [TrainingProgress(shown), Fail()])
    assert "\x1b[?25h" in text_of(shown)  # the cursor is back
    shown.print("and the console is free")
    assert "and the console is free" in text_of(shown)


def test_progress_goes_to_standard_error() -> None:
    assert TrainingProgress().console.stderr


@pytest.mark.parametrize("accumulated", [1, 3])
def test_shown_loss_is_that_of_a_batch_with_accumulation(tmp_path: Path, accumulated: int) -> None:
    taken = []

    class Losses(Callback):
        def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Any) -> None:
            taken.append(float(loss) * trainer.accumulate_grad_batches)

    shown = console(terminal=False)
    changes = {"training.accumulate_batches": accumulated, "training.epochs": 1}
    tiny_fit(tmp_path, [TrainingProgress(shown), Losses()], changes)
    shown_loss = re.search(r"loss (\d\.\d{4})", text_of(shown))
    assert shown_loss is not None
    assert min(taken) - 1e-4 <= float(shown_loss[1]) <= max(taken) + 1e-4
