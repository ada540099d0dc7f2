"""denoising_diffusion_pytorch: its ``Trainer`` with the arguments of its README.

Exceptions: no fp16 (the CPU has none), no FID, whose weights it downloads, and no flips, like all programs here. The
batch size is halved, since the trainer accumulates the gradients of two batches per optimizer step. The width of the
network is chosen to match our number of parameters.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.equal_work import peer
from benchmarks.quality.snapshot_timer import SnapshotTimer, build_network_of_size
from diffusion_lab.shapes import Pixels

MULTIPLIERS = ((1, 2, 4, 8), (1, 2, 4), (1, 2))
"""Multipliers of the README, then those for image sizes that cannot be halved three times."""

ACCUMULATED_BATCHES = 2
"""Batches per optimizer step, as in the README."""

SAMPLING_BATCH = 100


class _TimeLimitReached(Exception):
    pass


def build_network(parameters: int, channels: int, image_size: int) -> Any:
    """Build the ``Unet`` with this number of parameters, within 20 %."""
    library = peer("denoising_diffusion_pytorch")

    def build(dim: int, multipliers: tuple[int, ...]) -> Any:
        return library.Unet(dim=dim, dim_mults=multipliers, channels=channels)

    fitting = next(multipliers for multipliers in MULTIPLIERS if image_size % 2 ** (len(multipliers) - 1) == 0)
    return build_network_of_size(parameters, build, [(dim, fitting) for dim in range(8, 129, 4)])


def train(
    folder: Path, out: Path, seconds: float, parameters: int, batch_size: int, channels: int, image_size: int
) -> Iterator[tuple[float, dict[str, Any]]]:
    """Train for ``seconds``; yield the training time and the averaged weights at each mark."""
    library = peer("denoising_diffusion_pytorch")
    torch.manual_seed(0)
    diffusion = library.GaussianDiffusion(
        build_network(parameters, channels, image_size), image_size=image_size, timesteps=1000, sampling_timesteps=250
    )
    trainer = library.Trainer(
        diffusion,
        str(folder),
        train_batch_size=batch_size // ACCUMULATED_BATCHES,
        train_lr=8e-5,
        train_num_steps=700_000,
        gradient_accumulate_every=ACCUMULATED_BATCHES,
        augment_horizontal_flip=False,
        ema_decay=0.995,
        calculate_fid=False,
        save_and_sample_every=700_000,
        results_folder=str(out),
    )
    snapshots: list[tuple[float, dict[str, Any]]] = []
    timer = SnapshotTimer(seconds, lambda elapsed: snapshots.append((elapsed, _copy_state(trainer.ema.ema_model))))
    update = trainer.ema.update

    def update_and_check_time() -> None:
        update()
        if timer.tick():
            raise _TimeLimitReached

    trainer.ema.update = update_and_check_time  # called after each step
    try:
        trainer.train()
    except _TimeLimitReached:
        timer.save_now()
    yield from snapshots


def _copy_state(model: torch.nn.Module) -> dict[str, Any]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def sample(weights: dict[str, Any], images: int, steps: int, parameters: int, channels: int, image_size: int) -> Pixels:
    """Return DDIM samples of a snapshot, uint8 (N, C, H, W)."""
    library = peer("denoising_diffusion_pytorch")
    diffusion = library.GaussianDiffusion(
        build_network(parameters, channels, image_size), image_size=image_size, timesteps=1000, sampling_timesteps=steps
    )
    diffusion.load_state_dict(weights)
    diffusion.eval()
    torch.manual_seed(0)
    parts = [
        diffusion.sample(batch_size=min(SAMPLING_BATCH, images - start)) for start in range(0, images, SAMPLING_BATCH)
    ]
    return (torch.cat(parts) * 255).round().clamp(0, 255).to(torch.uint8)
