"""Learning-rate schedules by name."""

from __future__ import annotations

import math
import sys
from typing import Any, ClassVar

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau, StepLR

from diffusion_lab.config.dotted import load_class


class CosineLR(LambdaLR):
    """Falls to ``eta_min`` along a cosine, and rises again after it (arXiv:1608.03983, equation 5).

    The curve of torch's CosineAnnealingLR, whose rate follows from the rate before it: a resumed run with more
    epochs would stay at ``eta_min``. Here it follows from the epoch alone.

    Args:
        optimizer: Its learning rate is the peak.
        T_max: Epochs of the fall.
        eta_min: The learning rate at its end.
    """

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0) -> None:
        peak: float = optimizer.param_groups[0]["lr"]
        super().__init__(optimizer, lambda epoch: _cosine(epoch / T_max, peak, eta_min) / peak)


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


def _cosine(done: float, peak: float, least: float) -> float:
    return least + (peak - least) * (1 + math.cos(math.pi * done)) / 2


LR_SCHEDULES: dict[str, type[LRScheduler]] = {
    "cosine": CosineLR,
    "step": StepLR,
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
    cls = LR_SCHEDULES.get(type_) or load_class(type_, "training.scheduler.type")
    by_step = getattr(cls, "by_step", False)
    try:
        schedule = cls(optimizer, **({"total_steps": total_steps} if by_step else {}), **options)
    except TypeError as error:
        raise ValueError(f"training.scheduler.type {type_} does not take these settings: {error}") from error
    entry = {"scheduler": schedule, "interval": "step" if by_step else "epoch", "monitor": metric}
    if isinstance(schedule, ReduceLROnPlateau):
        # Never by the trainer, which would do it after the checkpoint of the epoch is written: the module does it.
        entry["frequency"] = sys.maxsize
    return entry


def present_rates(schedule: LRScheduler) -> list[float]:
    """The learning rate of each parameter group at the present place of a schedule."""
    if isinstance(schedule, LambdaLR):
        shares = [share(schedule.last_epoch) for share in schedule.lr_lambdas]
        return [float(base) * share for base, share in zip(schedule.base_lrs, shares, strict=True)]
    return [float(rate) for rate in schedule.get_last_lr()]
