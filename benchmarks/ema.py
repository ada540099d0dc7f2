"""Cost of the EMA of the weights: time of its update against a training step, and memory."""

from __future__ import annotations

import torch
from torch import nn

from benchmarks.harness import Row, command, time_alternately
from diffusion_lab.create import create_ddpm
from diffusion_lab.denoiser import Denoiser
from diffusion_lab.diffusion.loss import DenoisingLoss
from diffusion_lab.ema import EMA

BATCH = 16
MAX_SHARE = 0.02
UPDATES = 20
"""Number of updates timed together, since one takes only milliseconds."""


def bytes_of(module: nn.Module) -> int:
    """Return the size of its parameters and buffers."""
    return sum(tensor.untyped_storage().nbytes() for tensor in (*module.parameters(), *module.buffers()))


def step_of(denoiser: Denoiser) -> None:
    """Make a training step at 32×32×3."""
    optimizer = torch.optim.AdamW(denoiser.parameters())
    DenoisingLoss()(denoiser, torch.rand(BATCH, 3, 32, 32), None, seed=0).backward()
    optimizer.step()


def measure() -> list[Row]:
    """Return a row for the time and one for the memory."""
    denoiser = create_ddpm(image_size=32, channel_multipliers=[1, 2, 4], use_attention=[False, False, True])
    ema = EMA(denoiser, 0.999)

    def updates() -> None:
        for _ in range(UPDATES):
            ema.update(denoiser)

    timings = time_alternately({"update": updates, "step": lambda: step_of(denoiser)}, rounds=5)
    share, size = timings.ratio("update", "step") / UPDATES, bytes_of(denoiser)
    what, copies = "EMA update, of a step at 32×32×3, batch 16", "memory of EMA, of one copy of the weights"
    return [
        Row("6", what, timings.median("update") / UPDATES, timings.median("step"), "s", share, MAX_SHARE, False),
        Row("6", copies, bytes_of(ema) / 2**20, size / 2**20, "MB", bytes_of(ema) / size, 1.001, False),
    ]


if __name__ == "__main__":
    command("ema", measure)
