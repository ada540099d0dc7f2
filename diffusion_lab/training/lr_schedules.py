"""Learning-rate schedules."""

from __future__ import annotations

import math
import sys
from typing import Any, ClassVar

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from diffusion_lab.config.scheduler_section import SchedulerSettings


class CosineLR(LambdaLR):
    """Cosine annealing to ``eta_min``, rising again after it (arXiv:1608.03983, equation 5).

    Same curve as torch's CosineAnnealingLR, which computes each rate from the previous one, so that a run resumed with
    more epochs would stay at ``eta_min``. This class computes the rate from the epoch alone.

    Args:
        optimizer: The optimizer, whose learning rate is the peak.
        T_max: Epochs until ``eta_min``.
        eta_min: Learning rate at the end.
        last_epoch: Epoch of the curve to continue from; -1 for its start.
    """

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0, last_epoch: int = -1) -> None:
        peak = _first_rate(optimizer)
        super().__init__(optimizer, lambda epoch: _cosine(epoch / T_max, peak, eta_min) / peak, last_epoch)


class StepDecayLR(LambdaLR):
    """Multiplies the learning rate by ``gamma`` every ``step_size`` epochs.

    Same curve as torch's StepLR, which computes each rate from the previous one and restores its options from the
    checkpoint. This class computes the rate from the epoch and the current options alone.

    Args:
        optimizer: The optimizer, whose learning rate is the initial one.
        step_size: Epochs between two drops.
        gamma: Factor of each drop.
        last_epoch: Epoch of the curve to continue from; -1 for its start.
    """

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1, last_epoch: int = -1) -> None:
        _first_rate(optimizer)
        super().__init__(optimizer, lambda epoch: gamma ** (epoch // step_size), last_epoch)


class WarmupCosineLR(LambdaLR):
    """Linear warmup for ``warmup_steps`` optimizer steps, then cosine annealing to ``eta_min`` (arXiv:1608.03983).

    Args:
        optimizer: The optimizer, whose learning rate is the peak.
        total_steps: Optimizer steps of the complete run, after which the rate stays at ``eta_min``.
        warmup_steps: Steps of the warmup, 0 for none.
        eta_min: Learning rate at the end.
    """

    by_step: ClassVar[bool] = True

    def __init__(self, optimizer: Optimizer, total_steps: int, warmup_steps: int = 0, eta_min: float = 0.0) -> None:
        peak: float = optimizer.param_groups[0]["lr"]

        def factor(step: int) -> float:
            if step < warmup_steps:
                return (step + 1) / (warmup_steps + 1)
            done = min((step - warmup_steps) / max(total_steps - warmup_steps, 1), 1.0)
            return _cosine(done, peak, eta_min) / peak

        super().__init__(optimizer, factor)


def _first_rate(optimizer: Optimizer) -> float:
    """Return the initial learning rate of an optimizer, and set torch's ``initial_lr`` in its parameter groups."""
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])
    rate: float = optimizer.param_groups[0]["initial_lr"]
    return rate


def _cosine(done: float, peak: float, least: float) -> float:
    return least + (peak - least) * (1 + math.cos(math.pi * done)) / 2


def create_schedule(
    type_: str | None, options: dict[str, Any], optimizer: Optimizer, total_steps: int, metric: str
) -> dict[str, Any] | None:
    """Build Lightning's ``lr_scheduler`` entry; None for a constant learning rate.

    Schedules are stepped once per epoch, as torch's are. A class with ``by_step = True``, like ``WarmupCosineLR``, is
    stepped once per optimizer step, and gets their number as ``total_steps``.

    Args:
        type_: Name or dotted path.
        options: Arguments of the class.
        optimizer: The optimizer.
        total_steps: Optimizer steps of the complete run.
        metric: Name of the logged metric that ``plateau`` monitors.

    Raises:
        ValueError: The class does not accept an argument.
    """
    if type_ is None:
        return None
    cls: type[LRScheduler] = SchedulerSettings.class_of(type_)
    by_step = getattr(cls, "by_step", False)
    if options.get("last_epoch", -1) != -1:
        _first_rate(optimizer)  # torch's classes require initial_lr if last_epoch is not -1
    try:
        schedule = cls(optimizer, **({"total_steps": total_steps} if by_step else {}), **options)
    except TypeError as error:
        raise ValueError(f"training.scheduler.type {type_} does not take these settings: {error}") from error
    entry: dict[str, Any] = {"scheduler": schedule, "interval": "step" if by_step else "epoch", "monitor": metric}
    if isinstance(schedule, ReduceLROnPlateau):
        # Never stepped by the trainer, which would do so after the epoch's checkpoint is written: the module does it.
        entry["frequency"] = sys.maxsize
    return entry


def follows_from_the_place(cls: type[LRScheduler]) -> bool:
    """Return whether a schedule computes its rate from the epoch or step alone, so that it can be rebuilt anywhere."""
    return issubclass(cls, LambdaLR)


def rebuild_state(schedule: LRScheduler, saved: dict[str, Any], factor: float, keep_best: bool) -> dict[str, Any]:
    """Return a state that moves a new schedule to the position of a saved one, keeping its options and base rate.

    Args:
        schedule: New schedule, as built from the current settings.
        saved: State of the schedule in the checkpoint.
        factor: Ratio of ``training.optimizer.learning_rate`` to that of the checkpoint.
        keep_best: Whether ``plateau`` may compare with the best value so far.
    """
    if isinstance(schedule, ReduceLROnPlateau):
        of_best = ("best", "num_bad_epochs") if keep_best else ()
        restored = {name: saved[name] for name in (*of_best, "cooldown_counter", "last_epoch") if name in saved}
        return {**restored, "_last_lr": [rate * factor for rate in saved["_last_lr"]]}
    state = {name: value for name, value in saved.items() if name in vars(schedule)}
    return {**state, "base_lrs": schedule.base_lrs, "lr_lambdas": [None] * len(schedule.base_lrs)}


def current_rates(schedule: LRScheduler) -> list[float]:
    """Return the learning rate of each parameter group at the current position of a schedule."""
    if isinstance(schedule, LambdaLR):
        factors = [lr_lambda(schedule.last_epoch) for lr_lambda in schedule.lr_lambdas]
        return [float(base) * factor for base, factor in zip(schedule.base_lrs, factors, strict=True)]
    return [float(rate) for rate in schedule.get_last_lr()]
