"""Anomalies in training are detected: values that are NaN or infinite, and loss spikes."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from rich.console import Console
from torch import Tensor

from diffusion_lab.checkpoint import find_checkpoint
from diffusion_lab.training.anomalies import (
    QUIET_STEPS,
    WARM_UP,
    NonFiniteError,
    SpikeDetector,
    check_finite,
    naming_last_good_checkpoint,
)
from diffusion_lab.training.callbacks.training_monitor import SCALER_STEPS, TrainingMonitor
from diffusion_lab.training.mirror import Mirror
from diffusion_lab.training.module import DiffusionModule
from tests.training.tiny import saved, tiny_run


def changed_losses(monkeypatch: pytest.MonkeyPatch, factors: dict[int, float]) -> None:
    """Multiply the loss of some batches, counted from 1."""
    inner = DiffusionModule.training_step
    batches = iter(range(1, 10**6))

    def step(self: DiffusionModule, *arguments: Any) -> Tensor:
        return inner(self, *arguments) * factors.get(next(batches), 1.0)

    monkeypatch.setattr(DiffusionModule, "training_step", step)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_stops_before_the_step_is_made(bad: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changed_losses(monkeypatch, {5: bad})
    every = {"training.checkpointing.save_frequency": 1}
    with pytest.raises(NonFiniteError, match=r"gradient of step 5 is NaN.*the last good checkpoint is .*step_0"):
        tiny_run(tmp_path, every)
    assert saved(find_checkpoint(tmp_path, "last"))["global_step"] == 3


def test_consecutive_steps_are_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights are those of a run without these steps. Loggers that can notify the user are asked to."""
    shown = Console(file=io.StringIO(), width=200)
    alerts: list[str] = []
    monkeypatch.setattr(Mirror, "send_alert", lambda self, title, text: alerts.append(f"{title}: {text}"))
    changed_losses(monkeypatch, {2: float("nan"), 3: float("inf"), 5: float("nan")})
    tiny_run(tmp_path, {"training.watch": {"skip_non_finite": 2}, "logger": {"backends": ["tensorboard"]}}, shown)
    assert alerts[0] == "NaN or infinite loss: step 2 skipped: its loss or gradient is NaN or infinite"
    assert len(alerts) == 3
    last = saved(find_checkpoint(tmp_path, "last"))
    (optimizer,) = last["optimizer_states"]
    assert {int(entry["step"]) for entry in optimizer["state"].values()} == {3}
    assert all(bool(weight.isfinite().all()) for weight in last["state_dict"].values())
    assert isinstance(shown.file, io.StringIO)
    for text in (shown.file.getvalue(), (tmp_path / "logs" / "run.log").read_text()):
        assert text.count("skipped") == 3
        assert "step 2 skipped" in text


def test_one_more_consecutive_step_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changed_losses(monkeypatch, dict.fromkeys((2, 3), float("nan")))
    with pytest.raises(NonFiniteError, match=r"step 3 .* so were those of the 1 steps before it.*no checkpoint was"):
        tiny_run(tmp_path, {"training.watch": {"skip_non_finite": 1}})


def test_non_finite_weights_are_not_saved() -> None:
    check_finite({"fine": torch.ones(2), "counter": torch.tensor(3)}, 7)
    with pytest.raises(NonFiniteError, match="bad is NaN or infinite after step 7"):
        check_finite({"bad": torch.tensor([1.0, float("inf")])}, 7)


def test_other_errors_are_unchanged(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^other$"), naming_last_good_checkpoint(tmp_path):
        raise ValueError("other")


def test_losses_are_unscaled_with_a_gradient_scaler() -> None:
    """A scaler may make some gradients infinite, and skips these steps itself."""
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    trainer: Any = SimpleNamespace(
        precision_plugin=SimpleNamespace(scaler=scaler), global_step=0, accumulate_grad_batches=2
    )
    weight = torch.nn.Parameter(torch.ones(3))
    weight.grad = torch.full((3,), float("inf"))
    optimizer, module = torch.optim.SGD([weight]), cast(Any, SimpleNamespace())
    watch = TrainingMonitor(0, 5.0, 1, Console(quiet=True))
    seen: list[float] = []
    assert watch.spikes is not None
    watch.spikes.update = lambda loss, step: seen.append(loss)  # type: ignore[method-assign, assignment, func-returns-value]
    for trainer.global_step in range(SCALER_STEPS):
        for loss in (1.0, 3.0):  # of two batches, which the trainer divides by two
            watch.on_before_backward(trainer, module, scaler.scale(torch.tensor(loss / 2)))
        watch.on_before_optimizer_step(trainer, module, optimizer)
    assert seen == [2.0] * SCALER_STEPS
    watch.on_before_backward(trainer, module, scaler.scale(torch.tensor(1.0)))
    with pytest.raises(NonFiniteError):
        watch.on_before_optimizer_step(trainer, module, optimizer)


class TestSpikes:
    @staticmethod
    def spikes(losses: list[float], factor: float = 5.0) -> list[tuple[int, float]]:
        watch, spikes = SpikeDetector(factor), []
        for step, loss in enumerate(losses, 1):
            spikes.append(watch.update(loss, step))
        return [(spike.step, round(spike.loss / spike.mean, 3)) for spike in spikes if spike]

    def test_a_spike_has_its_step_and_mean(self) -> None:
        assert self.spikes([1.0] * 30 + [6.0] + [1.0] * 9) == [(31, 6.0)]

    def test_no_spike_below_the_factor_or_during_warmup(self) -> None:
        assert self.spikes([1.0] * 30 + [4.9]) == []
        assert self.spikes([1.0] * (WARM_UP - 1) + [50.0]) == []

    def test_consecutive_spikes_are_reported_once(self) -> None:
        losses = [1.0] * 30 + [9.0, 1.0] * 20
        assert [step for step, _ in self.spikes(losses)] == [31]
        later = [1.0] * 30 + [9.0] + [1.0] * QUIET_STEPS + [9.0]
        assert [step for step, _ in self.spikes(later)] == [31, 32 + QUIET_STEPS]

    def test_a_spike_does_not_raise_the_threshold_for_the_next(self) -> None:
        """Otherwise a hundred spikes would hide later ones."""
        losses = [1.0] * 30 + [1e6] + [1.0] * QUIET_STEPS + [9.0]
        assert [step for step, _ in self.spikes(losses)] == [31, 32 + QUIET_STEPS]

    def test_a_nan_does_not_spoil_the_mean(self) -> None:
        assert self.spikes([1.0] * 30 + [float("nan")] + [1.0] * 5 + [6.0]) == [(37, 6.0)]

    def test_the_run_reports_spikes(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        changed_losses(monkeypatch, {25: 1000.0})
        shown = Console(file=io.StringIO(), width=200)
        tiny_run(tmp_path, {"training.epochs": 9}, shown)
        assert isinstance(shown.file, io.StringIO)
        assert "loss spike: " in shown.file.getvalue()
        assert "in step 25, where its running mean is" in (tmp_path / "logs" / "run.log").read_text()
