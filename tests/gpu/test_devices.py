"""A device named by its number is used for all computations."""

from __future__ import annotations

from pathlib import Path

import torch

from diffusion_lab import EMA, DiffusionSampler, load_denoiser
from diffusion_lab.checkpoint import find_checkpoint
from diffusion_lab.training.module import DiffusionModule
from tests.training.tiny import saved, tiny_denoiser, tiny_run


def test_everything_accepts_the_number(device: str, tmp_path: Path) -> None:
    numbered = f"{device}:0"
    tiny_run(tmp_path, {"compute.device": numbered, "training.epochs": 1})
    assert saved(find_checkpoint(tmp_path))["diffusion_lab"]["config"]["compute"]["device"] == numbered
    denoiser = load_denoiser(tmp_path, device=numbered)
    sampler = DiffusionSampler(denoiser, device=numbered, ema=EMA(tiny_denoiser(), device=numbered))
    images = sampler.sample(4, [0, 1, 2, 0], 2.0, use_ema=False, seed=0)
    assert images.device.type == device
    assert torch.equal(images, DiffusionSampler(denoiser, device).sample(4, [0, 1, 2, 0], 2.0, seed=0))
    module = DiffusionModule.load_from_checkpoint(tmp_path, numbered)
    assert {tensor.device.type for tensor in module.state_dict().values()} == {device}
    assert torch.equal(module.sampler.sample(4, [0, 1, 2, 0], 2.0, seed=0), images)
