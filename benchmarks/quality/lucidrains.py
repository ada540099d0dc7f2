"""denoising_diffusion_pytorch: its ``Trainer`` with the arguments of its README.

Left out of them: fp16 (it has none on a CPU), FID, whose weights are fetched, and mirroring, as in all programs here.
Its batches are halved, since it accumulates two for each optimizer step. The network is as wide as makes its parameters
equal ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.equal_work import peer
from benchmarks.quality.stopwatch import Stopwatch, nearest
from diffusion_lab.shapes import Pixels

MULTIPLIERS = ((1, 2, 4, 8), (1, 2, 4), (1, 2))
"""Those of the README first; the others are for images whose size three halvings do not divide."""

ACCUMULATED = 2
"""Batches for each optimizer step, as in the README."""

DRAWN_AT_ONCE = 100


class _TimeIsUp(Exception):
    pass


def network(parameters: int, channels: int, image_size: int) -> Any:
    """The ``Unet`` with as many parameters as asked for, within 20 %."""
    library = peer("denoising_diffusion_pytorch")

    def make(dim: int, multipliers: tuple[int, ...]) -> Any:
        return library.Unet(dim=dim, dim_mults=multipliers, channels=channels)

    fitting = next(multipliers for multipliers in MULTIPLIERS if image_size % 2 ** (len(multipliers) - 1) == 0)
    return nearest(parameters, make, [(dim, fitting) for dim in range(8, 129, 4)])


def train(
    folder: Path, out: Path, seconds: float, parameters: int, batch_size: int, channels: int, image_size: int
) -> Iterator[tuple[float, dict[str, Any]]]:
    """Train for so long; yields the seconds and the averaged weights at each mark."""
    library = peer("denoising_diffusion_pytorch")
    torch.manual_seed(0)
    diffusion = library.GaussianDiffusion(
        network(parameters, channels, image_size), image_size=image_size, timesteps=1000, sampling_timesteps=250
    )
    trainer = library.Trainer(
        diffusion,
        str(folder),
        train_batch_size=batch_size // ACCUMULATED,
        train_lr=8e-5,
        train_num_steps=700_000,
        gradient_accumulate_every=ACCUMULATED,
        augment_horizontal_flip=False,
        ema_decay=0.995,
        calculate_fid=False,
        save_and_sample_every=700_000,
        results_folder=str(out),
    )
    kept: list[tuple[float, dict[str, Any]]] = []
    watch = Stopwatch(seconds, lambda at: kept.append((at, _copied(trainer.ema.ema_model))))
    update = trainer.ema.update

    def updated() -> None:
        update()
        if watch.tick():
            raise _TimeIsUp

    trainer.ema.update = updated  # called after each step
    try:
        trainer.train()
    except _TimeIsUp:
        watch.keep_now()
    yield from kept


def _copied(model: torch.nn.Module) -> dict[str, Any]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def draw(weights: dict[str, Any], images: int, steps: int, parameters: int, channels: int, image_size: int) -> Pixels:
    """Images of a snapshot, uint8 (N, C, H, W), by DDIM."""
    library = peer("denoising_diffusion_pytorch")
    diffusion = library.GaussianDiffusion(
        network(parameters, channels, image_size), image_size=image_size, timesteps=1000, sampling_timesteps=steps
    )
    diffusion.load_state_dict(weights)
    diffusion.eval()
    torch.manual_seed(0)
    parts = [
        diffusion.sample(batch_size=min(DRAWN_AT_ONCE, images - start)) for start in range(0, images, DRAWN_AT_ONCE)
    ]
    return (torch.cat(parts) * 255).round().clamp(0, 255).to(torch.uint8)
