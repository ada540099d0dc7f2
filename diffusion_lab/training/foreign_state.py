"""What a run takes over from the checkpoint of another program: weights, epoch, averages, the optimizer's state."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from diffusion_lab.checkpoint import Checkpoint
from diffusion_lab.checkpoint.foreign import EMA_KEY, ForeignParts
from diffusion_lab.ema_formats import bare_names, find_average
from diffusion_lab.training.lr_schedules import present_rates
from diffusion_lab.training.module import DiffusionModule
from diffusion_lab.training.optimizer_state import States, fitting_states, saved_rate

LARGEST_EPOCH = 2**31


def epochs_done(parts: ForeignParts) -> int | None:
    """The number of epochs done, which is what ``epoch`` is taken for; None where it is no such number."""
    epoch = parts.epoch
    return epoch if type(epoch) is int and 0 <= epoch < LARGEST_EPOCH else None


@dataclass
class ForeignState:
    """What a run takes over, and what is to be said of it; the weights are in the denoiser already.

    Args:
        epochs: Epochs done.
        steps: Optimizer steps that these make.
        optimizer_states: By the numbers of the parameters; None begins anew.
        reset_schedule: Begin the learning-rate schedule anew instead of at this place.
        notes: A line for each part.
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
    """Put the averages of a checkpoint into a module that has its weights, and find what else can be taken over.

    Args:
        checkpoint: Of another program.
        module: As built from the settings.
        steps: Optimizer steps of the epochs that are done.
        reset_optimizer: Whether the user wants the optimizer to begin anew.
        reset_schedule: Whether the user wants the learning-rate schedule to begin anew.
    """
    parts = checkpoint.foreign or ForeignParts()
    done = ForeignState(epochs_done(parts) or 0, steps, reset_schedule=reset_schedule)
    done.notes += _of_the_epoch(parts, done)
    done.notes += _take_average(checkpoint, parts, module)
    if reset_optimizer:
        done.notes.append("optimizer: begins anew (training.resume.reset_optimizer=true)")
    else:
        done.notes += _take_optimizer(checkpoint, parts, module, done)
    done.notes += _of_the_schedule(module, done)
    if parts.unread:
        done.notes.append(f"not taken over, since it is not read: {', '.join(parts.unread)}")
    return done


def _of_the_epoch(parts: ForeignParts, done: ForeignState) -> Iterator[str]:
    if epochs_done(parts) is None:
        what = "holds no epoch" if parts.epoch is None else "has an epoch that is no number of epochs"
        yield f"epoch: not taken over, the file {what}; training begins with epoch 1"
        return
    yield (
        f"epoch: {done.epochs} in the file is taken as the number of epochs that are done, counted as {done.steps} "
        f"optimizer steps of these settings; training goes on with epoch {done.epochs + 1}"
    )


def _take_average(checkpoint: Checkpoint, parts: ForeignParts, module: DiffusionModule) -> Iterator[str]:
    there = bool(checkpoint.ema_weights) or parts.ema_fault is not None
    if module.ema is None:
        if there:
            yield "averaged weights: not taken over, since training.ema.enabled=false"
        return
    anew = "the averages begin with the weights of the file"
    if not there:
        yield f"averaged weights: the file holds none; {anew}"
        return
    try:
        if parts.ema_fault is not None:
            raise ValueError(parts.ema_fault.removeprefix(f"its {EMA_KEY} "))
        average = find_average(parts.ema, bare_names(checkpoint.weights))
        module.ema.begin_from(average)
    except ValueError as error:
        yield f"averaged weights: not taken over, {EMA_KEY} {error}; {anew}"
        return
    count = "" if average.updates is None else f" (updates so far: {average.updates})"
    yield f"averaged weights: taken over{count}"
    if average.decay not in (None, module.ema.decay):
        yield f"training.ema.decay was {average.decay:g} in the file and is {module.ema.decay:g}; the new value is used"
    if module.ema.further:
        yield "training.ema.further_decays: these averages begin with the averaged weights of the file"


def _take_optimizer(
    checkpoint: Checkpoint, parts: ForeignParts, module: DiffusionModule, done: ForeignState
) -> Iterator[str]:
    names = [name for name, _ in module.denoiser.named_parameters()]
    in_the_file = [name for name in checkpoint.weights if name in set(names)]
    try:
        if in_the_file != names:
            raise ValueError("the weights of the file stand in another order than those of this model")
        done.optimizer_states = fitting_states(parts.optimizer, module.make_optimizer, module.denoiser.parameters())
    except ValueError as error:
        yield f"optimizer: not taken over, {error}; it begins anew"
        return
    yield "optimizer: its state is taken over, its options come from the settings"
    rate = saved_rate(parts.optimizer)
    own = module.make_optimizer(module.denoiser.parameters()).param_groups[0]["lr"]
    if rate is not None and abs(rate - own) > 1e-6 * max(rate, own):
        yield f"training.optimizer.learning_rate is {own:.3g} here and was {rate:.3g} at the last step in the file"


def _of_the_schedule(module: DiffusionModule, done: ForeignState) -> Iterator[str]:
    entry = module.make_schedule(module.make_optimizer(module.denoiser.parameters()))
    if entry is None:
        return
    if done.reset_schedule:
        yield "learning-rate schedule: begins anew (training.resume.reset_scheduler=true)"
    elif isinstance(entry["scheduler"], ReduceLROnPlateau):
        yield "learning-rate schedule: plateau follows from losses, which the file does not tell; it begins anew"
    elif done.epochs:
        yield f"learning-rate schedule: that of the settings, at its place after epoch {done.epochs}"


class ForeignStateCallback(Callback):
    """Puts optimizer, schedule and counts where the other program was, before the first step."""

    def __init__(self, taken: ForeignState) -> None:
        self.taken = taken

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        states, self.taken.optimizer_states = self.taken.optimizer_states, None
        if states is not None:
            (optimizer,) = trainer.optimizers
            optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
        loop = trainer.fit_loop
        counts = dict.fromkeys(("ready", "started", "processed", "completed"), self.taken.epochs)
        loop.epoch_progress.load_state_dict({"total": counts, "current": counts})
        counted = loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step.total
        counted.ready = counted.completed = self.taken.steps
        loop.epoch_loop._batches_that_stepped = self.taken.steps
        if not self.taken.reset_schedule:
            for entry in trainer.lr_scheduler_configs:
                _advance(entry.scheduler, self.taken.steps if entry.interval == "step" else self.taken.epochs)


def _advance(schedule: Any, count: int) -> None:
    """Put a schedule at the place that it has after so many of its steps; plateau, which knows none, stays."""
    if isinstance(schedule, LambdaLR):
        schedule.last_epoch = count
        schedule._step_count += count
        rates = present_rates(schedule)
        schedule._last_lr = list(rates)
        for group, rate in zip(schedule.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
    elif isinstance(schedule, LRScheduler) and not isinstance(schedule, ReduceLROnPlateau):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that no step of the optimizer came before
            for _ in range(count):
                schedule.step()
