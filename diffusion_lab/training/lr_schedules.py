"""Learning-rate schedules by name."""

from __future__ import annotations

import math
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler, ReduceLROnPlateau, StepLR

from diffusion_lab.config.dotted import load_class


class WarmupCosineLR(LambdaLR):
    """Rises linearly for ``warmup_steps`` optimizer steps, then falls to ``eta_min`` along a cosine (arXiv:1608.03983).

    Args:
        optimizer: Its learning rate is the peak.
        total_steps: Optimizer steps of the whole run; from then on the rate stays at ``eta_min``.
        warmup_steps: Steps of the rise, 0 for none.
        eta_min: The learning rate at the end.
    """

    def __init__(self, optimizer: Optimizer, total_steps: int, warmup_steps: int = 0, eta_min: float = 0.0) -> None:
        peak = optimizer.param_groups[0]["lr"]

        def share(step: int) -> float:
            if step < warmup_steps:
                return (step + 1) / (warmup_steps + 1)
            done = min((step - warmup_steps) / max(total_steps - warmup_steps, 1), 1.0)
            return float((eta_min + (peak - eta_min) * (1 + math.cos(math.pi * done)) / 2) / peak)

        super().__init__(optimizer, share)


LR_SCHEDULES: dict[str, type[LRScheduler]] = {
    "cosine": CosineAnnealingLR,
    "step": StepLR,
    "plateau": ReduceLROnPlateau,
    "warmup_cosine": WarmupCosineLR,
}
"""The names that ``training.scheduler.type`` takes, beside dotted paths of one's own classes."""


def create_schedule(
    type_: str | None, options: dict[str, Any], optimizer: Optimizer, total_steps: int, metric: str
) -> dict[str, Any] | None:
    """Build Lightning's entry for a learning-rate schedule; None for a constant rate.

    Schedules go by epochs, as torch's do; ``warmup_cosine`` goes by optimizer steps.

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
    by_step = cls is WarmupCosineLR
    try:
        schedule = cls(optimizer, **({"total_steps": total_steps} if by_step else {}), **options)
    except TypeError as error:
        raise ValueError(f"training.scheduler.type {type_} does not take these settings: {error}") from error
    return {"scheduler": schedule, "interval": "step" if by_step else "epoch", "monitor": metric}
