"""Import from the checkpoint of another program: weights, epoch, averages and optimizer state."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from diffusion_lab.checkpoint import Checkpoint
from diffusion_lab.checkpoint.foreign import EMA_KEY, ForeignParts
from diffusion_lab.ema.formats import bare_names, find_average
from diffusion_lab.training.lr_schedules import current_rates
from diffusion_lab.training.module import DiffusionModule
from diffusion_lab.training.optimizer_state import States, matching_states, saved_rate

MAX_EPOCH = 2**31


def epochs_done(parts: ForeignParts) -> int | None:
    """Return ``epoch`` as the number of epochs done; None if it is not a valid number."""
    epoch = parts.epoch
    return epoch if type(epoch) is int and 0 <= epoch < MAX_EPOCH else None


@dataclass
class ForeignState:
    """State that a run takes over, and notes about it; the weights are in the denoiser already.

    Args:
        epochs: Epochs done.
        steps: Optimizer steps of these epochs.
        optimizer_states: States by the numbers of the parameters; None for a fresh optimizer.
        reset_schedule: Whether to restart the learning-rate schedule instead of continuing it at this epoch.
        notes: One line for each part.
    """

    epochs: int
    steps: int
    optimizer_states: States | None = None
    reset_schedule: bool = False
    notes: list[str] = field(default_factory=list)


def import_foreign_state(
    checkpoint: Checkpoint,
    module: DiffusionModule,
    steps: int,
    reset_optimizer: bool = False,
    reset_schedule: bool = False,
) -> ForeignState:
    """Load the averages of a checkpoint into a module that has its weights, and find what else can be taken over.

    Args:
        checkpoint: Checkpoint of another program.
        module: The module built from the settings.
        steps: Optimizer steps of the epochs done.
        reset_optimizer: Whether to use a fresh optimizer.
        reset_schedule: Whether to restart the learning-rate schedule.
    """
    parts = checkpoint.foreign or ForeignParts()
    state = ForeignState(epochs_done(parts) or 0, steps, reset_schedule=reset_schedule)
    state.notes += _epoch_notes(parts, state)
    state.notes += _load_average(checkpoint, parts, module)
    if reset_optimizer:
        state.notes.append("optimizer: starts fresh (training.resume.reset_optimizer=true)")
    else:
        state.notes += _match_optimizer(checkpoint, parts, module, state)
    state.notes += _schedule_notes(module, state)
    if parts.unread:
        state.notes.append(f"not taken over, since it is not read: {', '.join(parts.unread)}")
    return state


def _epoch_notes(parts: ForeignParts, state: ForeignState) -> Iterator[str]:
    if epochs_done(parts) is None:
        what = "holds no epoch" if parts.epoch is None else "has an epoch that is not a number of epochs"
        yield f"epoch: not taken over, the file {what}; training begins with epoch 1"
        return
    yield (
        f"epoch: {state.epochs} in the file is taken as the number of epochs that are done, counted as {state.steps} "
        f"optimizer steps of these settings; training continues with epoch {state.epochs + 1}"
    )


def _load_average(checkpoint: Checkpoint, parts: ForeignParts, module: DiffusionModule) -> Iterator[str]:
    has_averages = bool(checkpoint.ema_weights) or parts.ema_fault is not None
    if module.ema is None:
        if has_averages:
            yield "averaged weights: not taken over, since training.ema.enabled=false"
        return
    fallback = "the averages begin with the weights of the file"
    if not has_averages:
        yield f"averaged weights: the file holds none; {fallback}"
        return
    try:
        if parts.ema_fault is not None:
            raise ValueError(parts.ema_fault.removeprefix(f"its {EMA_KEY} "))
        average = find_average(parts.ema, bare_names(checkpoint.weights))
        module.ema.load_average(average)
    except ValueError as error:
        yield f"averaged weights: not taken over, {EMA_KEY} {error}; {fallback}"
        return
    count = "" if average.updates is None else f" (updates so far: {average.updates})"
    yield f"averaged weights: taken over{count}"
    if average.decay not in (None, module.ema.decay):
        yield f"training.ema.decay was {average.decay:g} in the file and is {module.ema.decay:g}; the new value is used"
    if module.ema.further:
        yield "training.ema.further_decays: these averages begin with the averaged weights of the file"


def _match_optimizer(
    checkpoint: Checkpoint, parts: ForeignParts, module: DiffusionModule, state: ForeignState
) -> Iterator[str]:
    names = [name for name, _ in module.denoiser.named_parameters()]
    saved_names = [name for name in checkpoint.weights if name in set(names)]
    try:
        if saved_names != names:
            raise ValueError("the weights of the file are in another order than those of this model")
        state.optimizer_states = matching_states(parts.optimizer, module.make_optimizer, module.denoiser.parameters())
    except ValueError as error:
        yield f"optimizer: not taken over, {error}; it starts fresh"
        return
    yield "optimizer: its state is taken over, its options come from the settings"
    rate = saved_rate(parts.optimizer)
    base_rate = module.make_optimizer(module.denoiser.parameters()).param_groups[0]["lr"]
    if rate is not None and abs(rate - base_rate) > 1e-6 * max(rate, base_rate):
        yield f"training.optimizer.learning_rate is {base_rate:.3g} and was {rate:.3g} at the last step in the file"


def _schedule_notes(module: DiffusionModule, state: ForeignState) -> Iterator[str]:
    entry = module.make_schedule(module.make_optimizer(module.denoiser.parameters()))
    if entry is None:
        return
    if state.reset_schedule:
        yield "learning-rate schedule: starts fresh (training.resume.reset_scheduler=true)"
    elif isinstance(entry["scheduler"], ReduceLROnPlateau):
        yield "learning-rate schedule: plateau depends on losses, which the file does not hold; it starts fresh"
    elif state.epochs:
        yield f"learning-rate schedule: that of the settings, continued after epoch {state.epochs}"


class ForeignStateCallback(Callback):
    """Sets optimizer, schedule and progress to the state of the other program, before the first step."""

    def __init__(self, state: ForeignState) -> None:
        self.state = state

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        states, self.state.optimizer_states = self.state.optimizer_states, None
        if states is not None:
            (optimizer,) = trainer.optimizers
            optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
        loop = trainer.fit_loop
        counts = dict.fromkeys(("ready", "started", "processed", "completed"), self.state.epochs)
        loop.epoch_progress.load_state_dict({"total": counts, "current": counts})
        counted = loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step.total
        counted.ready = counted.completed = self.state.steps
        loop.epoch_loop._batches_that_stepped = self.state.steps
        if not self.state.reset_schedule:
            for entry in trainer.lr_scheduler_configs:
                _advance(entry.scheduler, self.state.steps if entry.interval == "step" else self.state.epochs)


def _advance(schedule: Any, count: int) -> None:
    """Advance a schedule by ``count`` of its steps; plateau, which depends on losses, is left unchanged."""
    if isinstance(schedule, LambdaLR):
        schedule.last_epoch = count
        schedule._step_count += count
        rates = current_rates(schedule)
        schedule._last_lr = list(rates)
        for group, rate in zip(schedule.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
    elif isinstance(schedule, LRScheduler) and not isinstance(schedule, ReduceLROnPlateau):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about scheduler.step() before optimizer.step()
            for _ in range(count):
                schedule.step()
