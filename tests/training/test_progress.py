from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console

from diffusion_lab.training.callbacks import TrainingProgress, progress
from diffusion_lab.training.console import print_prose
from diffusion_lab.training.progress_text import Progress, file_line, terminal_lines
from tests.training.tiny import tiny_fit


def console(terminal: bool, width: int = 80) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=width, color_system=None)


def text_of(shown: Console) -> str:
    assert isinstance(shown.file, io.StringIO)
    return shown.file.getvalue()


class Quality(Callback):
    """Logs a metric as the evaluation of samples does, but only after the first epoch."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.callback_metrics.pop("val/kid_pixels", None)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch == 0:
            trainer.callback_metrics["val/kid_pixels"] = torch.tensor(0.125)


def test_one_line_per_epoch_without_a_terminal(tmp_path: Path) -> None:
    shown = console(terminal=False)
    tiny_fit(tmp_path, [TrainingProgress(shown)])
    pattern = r"epoch {0}/2  step {1}/6  loss \d\.\d{{4}}  val/loss \d\.\d{{4}}  [\d.,]+ images/s  \d+ s left"
    lines = text_of(shown).splitlines()
    assert len(lines) == 2
    assert all(re.fullmatch(pattern.format(epoch, 3 * epoch), line) for epoch, line in enumerate(lines, start=1))
    assert lines[-1].endswith("  0 s left")


def test_many_epochs_have_fewer_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "FIRST_EPOCHS", 1)
    monkeypatch.setattr(progress, "MOST_EPOCH_LINES", 2)
    shown = console(terminal=False)
    tiny_fit(tmp_path, [TrainingProgress(shown)], {"training.epochs": 5})
    assert re.findall(r"^epoch \d", text_of(shown), re.MULTILINE) == ["epoch 1", "epoch 3", "epoch 5"]


def test_a_long_epoch_has_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SILENCE_SECONDS", (0.0, 0.0))
    shown = console(terminal=False)
    tiny_fit(tmp_path, [TrainingProgress(shown)], {"training.epochs": 1})
    lines = text_of(shown).splitlines()
    assert [re.search(r"step \d", line)[0] for line in lines] == ["step 1", "step 2", "step 3", "step 3"]  # type: ignore[index]
    assert "left" not in lines[0]  # one batch does not tell how long others take
    assert "left" in lines[1]


def test_two_lines_on_a_terminal(tmp_path: Path) -> None:
    shown = console(terminal=True)
    tiny_fit(tmp_path, [TrainingProgress(shown)])
    *_, first, second, end = text_of(shown).splitlines()
    assert re.search(r"epoch 2/2  ━{8,}  100%  step 6/6  done in \d+ s", first)
    assert re.search(r"loss \d\.\d{4}  val/loss \d\.\d{4}  [\d.,]+ images/s$", second)
    assert end == "\x1b[?25h"  # the cursor is back


def test_the_last_quality_of_samples_stays_shown(tmp_path: Path) -> None:
    shown = console(terminal=False)
    tiny_fit(tmp_path, [Quality(), TrainingProgress(shown)])
    for line in text_of(shown).splitlines():
        assert re.search(r"loss \d\.\d{4}  (val/)?kid_pixels 0\.1250  [\d.,]+ im", line)


def test_the_watched_metric_is_the_quality(tmp_path: Path) -> None:
    shown = console(terminal=True, width=120)
    tiny_fit(tmp_path, [Quality(), TrainingProgress(shown, "val/loss_raw")])
    assert re.search(r"loss \d\.\d{4}  val/loss \d\.\d{4}  val/loss_raw \d\.\d{4}  ", text_of(shown))


LONG = Progress(
    1000, 1200, 1_234_567, 1_500_000, 0.0123, ("val/label_agreement_digits", 0.9812), 0.0321, 12_345.6, 300_000, 130_000
)


@pytest.mark.parametrize("width", range(20, 161, 10))
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    lines = terminal_lines(LONG, width)
    assert max(map(len, lines)) < width
    assert lines[0].startswith("epoch 1000/1200")
    assert lines[1].startswith("loss 0.0123")


def test_80_columns_have_everything() -> None:
    lines = terminal_lines(LONG, 80)
    for part in ("1000/1200", "━━━", "82%", "step 1,234,567", "36 h 6 min left"):
        assert part in lines[0]
    for part in ("0.0123", "label_agreement_digits 0.9812", "12,346 images/s"):
        assert part in lines[1]
    assert len(file_line(LONG)) <= 80
    for part in ("epoch 1000/1200", "loss 0.0123", "label_agreement_digits 0.9812", "36 h 6 min left"):
        assert part in file_line(LONG)


def test_other_lines_are_broken_between_words_on_a_terminal() -> None:
    text = "evaluation  256 samples (10 steps of UniPC) and 1,293 training images, compared by digits@8\nfolder  /x"
    on_terminal, in_file = console(terminal=True), console(terminal=False)
    for shown in (on_terminal, in_file):
        print_prose(shown, text)
    assert text_of(in_file) == text + "\n"
    first, second, last = text_of(on_terminal).splitlines()
    assert (first + " " + second.lstrip(), last) == tuple(text.splitlines())
    assert second.startswith(" " * 12)
    assert second[12] != " "
    assert len(first) < 80


def test_speed_counts_only_training_images(tmp_path: Path) -> None:
    shown = TrainingProgress(console(terminal=False))
    tiny_fit(tmp_path, [shown])
    assert shown.images == 2 * 18
    assert shown.images_per_second == pytest.approx(36 / shown.seconds)


def test_lines_are_left_alone_after_a_failure(tmp_path: Path) -> None:
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
    assert f"step {3 // accumulated}/{3 // accumulated}  " in text_of(shown)
