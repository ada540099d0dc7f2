"""Custom parts of a run that cause a fault at a certain point."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diffusion_lab.data.digits import digits
from diffusion_lab.data.source import ArraySource, IndexArray, PixelArray
from diffusion_lab.samplers.ddim import DDIMSampler


class TerminatedInValidation(ArraySource):
    """The digits. The first process that validates gets a SIGTERM during validation, later ones do not."""

    def __init__(self, image_size: int, channels: int) -> None:
        source = digits(image_size, channels)
        super().__init__(source.images, source.labels, source.class_names)

    def load_batch(self, indices: IndexArray, rng: np.random.Generator | None) -> PixelArray:
        if rng is None and _first_time("validated"):  # validation passes no generator
            os.kill(os.getpid(), signal.SIGTERM)
        return super().load_batch(indices, rng)


class FailingSampler(DDIMSampler):
    """Fails while the second grid of images is sampled."""

    def step(self, *arguments: Any) -> Any:
        if (Path("run") / "samples" / "epoch_0002.png").exists() and _first_time("sampled"):
            raise RuntimeError("out of luck while sampling")
        return super().step(*arguments)


class PausedSaving(torch.optim.AdamW):
    """Stops the process, once, while it is being saved."""

    def state_dict(self) -> dict[str, Any]:
        if Path("pause").exists() and _first_time("saving"):
            os.kill(os.getpid(), signal.SIGSTOP)
        return super().state_dict()


class Ruinous(torch.optim.AdamW):
    """Sets weights to NaN in one of its steps."""

    def __init__(self, *arguments: Any, ruined_in: int, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.left = ruined_in

    def step(self, closure: Any = None) -> Any:
        loss = super().step(closure)
        self.left -= 1
        if self.left == 0:
            self.param_groups[0]["params"][0].data.fill_(float("nan"))
        return loss


def _first_time(name: str) -> bool:
    try:
        Path(name).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True
