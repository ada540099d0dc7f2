"""Learning-rate schedules by name."""

from __future__ import annotations

import math
import sys
from typing import Any, ClassVar

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from diffusion_lab.config.import_class import load_class


class CosineLR(LambdaLR):
    """Falls to ``eta_min`` along a cosine, and rises again after it (arXiv:1608.03983, equation 5).

    The curve of torch's CosineAnnealingLR, whose rate follows from the rate before it: a resumed run with more
    epochs would stay at ``eta_min``. Here it follows from the epoch alone.

    Args:
        optimizer: Its learning rate is the peak.
        T_max: Epochs of the fall.
        eta_min: The learning rate at its end.
        last_epoch: Epoch of the curve that counts as done; -1 starts at its beginning.
    """

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0, last_epoch: int = -1) -> None:
        peak = _first_rate(optimizer)
        super().__init__(optimizer, lambda epoch: _cosine(epoch / T_max, peak, eta_min) / peak, last_epoch)


class StepDecayLR(LambdaLR):
    """Multiplies the rate by ``gamma`` after every ``step_size`` epochs.

    The curve of torch's StepLR, whose rate follows from the rate before it, and which takes back the options of the
    checkpoint it resumes from. Here the rate follows from the epoch and the present options alone.

    Args:
        optimizer: Its learning rate is the first one.
        step_size: Epochs from one drop to the next.
        gamma: Factor of each drop.
        last_epoch: Epoch of the curve that counts as done; -1 starts at its beginning.
    """

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1, last_epoch: int = -1) -> None:
        _first_rate(optimizer)
        super().__init__(optimizer, lambda epoch: gamma ** (epoch // step_size), last_epoch)


class WarmupCosineLR(LambdaLR):
    """Rises linearly for ``warmup_steps`` optimizer steps, then falls to ``eta_min`` along a cosine (arXiv:1608.03983).

    Args:
        optimizer: Its learning rate is the peak.
        total_steps: Optimizer steps of the whole run; from then on the rate stays at ``eta_min``.
        warmup_steps: Steps of the rise, 0 for none.
        eta_min: The learning rate at the end.
    """

    by_step: ClassVar[bool] = True

    def __init__(self, optimizer: Optimizer, total_steps: int, warmup_steps: int = 0, eta_min: float = 0.0) -> None:
        peak: float = optimizer.param_groups[0]["lr"]

        def share(step: int) -> float:
            if step < warmup_steps:
                return (step + 1) / (warmup_steps + 1)
            done = min((step - warmup_steps) / max(total_steps - warmup_steps, 1), 1.0)
            return _cosine(done, peak, eta_min) / peak

        super().__init__(optimizer, share)


def _first_rate(optimizer: Optimizer) -> float:
    """Return the learning rate of an optimizer, and note it where torch looks for the first one of a schedule."""
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])
    rate: float = optimizer.param_groups[0]["initial_lr"]
    return rate


def _cosine(done: float, peak: float, least: float) -> float:
    return least + (peak - least) * (1 + math.cos(math.pi * done)) / 2


LR_SCHEDULES: dict[str, type[LRScheduler]] = {
    "cosine": CosineLR,
    "step": StepDecayLR,
    "plateau": ReduceLROnPlateau,
    "warmup_cosine": WarmupCosineLR,
}
"""The names that ``training.scheduler.type`` takes, beside dotted paths of one's own classes."""


def create_schedule(
    type_: str | None, options: dict[str, Any], optimizer: Optimizer, total_steps: int, metric: str
) -> dict[str, Any] | None:
    """Build Lightning's entry for a learning-rate schedule; None for a constant rate.

    Schedules go by epochs, as torch's do. A class that says ``by_step = True``, like that of ``warmup_cosine``, goes
    by optimizer steps, and is given their number as ``total_steps``.

    Args:
        type_: Name or dotted path.
        options: Arguments of its class.
        optimizer: Whose rate is scheduled.
        total_steps: Optimizer steps of the whole run.
        metric: Logged name that ``plateau`` watches.

    Raises:
        ValueError: The class does not take an argument that was given.
    """
    if type_ is None:
        return None
    cls = schedule_class(type_)
    by_step = getattr(cls, "by_step", False)
    if options.get("last_epoch", -1) != -1:
        _first_rate(optimizer)  # which torch's classes ask for where a schedule does not start at its beginning
    try:
        schedule = cls(optimizer, **({"total_steps": total_steps} if by_step else {}), **options)
    except TypeError as error:
        raise ValueError(f"training.scheduler.type {type_} does not take these settings: {error}") from error
    entry: dict[str, Any] = {"scheduler": schedule, "interval": "step" if by_step else "epoch", "monitor": metric}
    if isinstance(schedule, ReduceLROnPlateau):
        # Never by the trainer, which would do it after the checkpoint of the epoch is written: the module does it.
        entry["frequency"] = sys.maxsize
    return entry


def schedule_class(type_: str) -> type[LRScheduler]:
    """The class of a learning-rate schedule by its name or dotted path."""
    return LR_SCHEDULES.get(type_) or load_class(type_, "training.scheduler.type")


def follows_from_the_place(cls: type[LRScheduler]) -> bool:
    """Whether a schedule computes its rate from the epoch or step alone, so that it can be rebuilt at any place."""
    return issubclass(cls, LambdaLR)


def rebuilt_state(schedule: LRScheduler, saved: dict[str, Any], factor: float, keep_best: bool) -> dict[str, Any]:
    """The state that puts a new schedule where a saved one was, with the options and the base rate of the new one.

    Args:
        schedule: As built from the present settings, at its beginning.
        saved: State of the schedule in the checkpoint.
        factor: The present ``training.optimizer.learning_rate`` over that of the checkpoint.
        keep_best: Whether ``plateau`` may compare with the best value so far.
    """
    if isinstance(schedule, ReduceLROnPlateau):
        counts = ("best", "num_bad_epochs") if keep_best else ()
        kept = {name: saved[name] for name in (*counts, "cooldown_counter", "last_epoch") if name in saved}
        return {**kept, "_last_lr": [rate * factor for rate in saved["_last_lr"]]}
    state = {name: value for name, value in saved.items() if name in vars(schedule)}
    return {**state, "base_lrs": schedule.base_lrs, "lr_lambdas": [None] * len(schedule.base_lrs)}


def present_rates(schedule: LRScheduler) -> list[float]:
    """The learning rate of each parameter group at the present place of a schedule."""
    if isinstance(schedule, LambdaLR):
        shares = [share(schedule.last_epoch) for share in schedule.lr_lambdas]
        return [float(base) * share for base, share in zip(schedule.base_lrs, shares, strict=True)]
    return [float(rate) for rate in schedule.get_last_lr()]
