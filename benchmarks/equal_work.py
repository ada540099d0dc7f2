"""Networks of equal work, ours and those of the peers, as the goals describe them.

32×32×3, 64 channels, multipliers 1, 2, 4, two blocks per stage, attention in the last stage.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from diffusion_lab.checkpoint import FORMAT
from diffusion_lab.config import get_default_config
from diffusion_lab.cpu.convolution import disable_winograd
from diffusion_lab.create import create_ddpm
from diffusion_lab.denoiser import Denoiser

BATCH = 16
IMAGE_SHAPE = (3, 32, 32)
CHANNELS, MULTIPLIERS = 64, (1, 2, 4)

EQUAL_WORK: dict[str, Any] = {
    "image_size": IMAGE_SHAPE[1],
    "in_channels": IMAGE_SHAPE[0],
    "model_channels": CHANNELS,
    "channel_multipliers": list(MULTIPLIERS),
    "use_attention": [False, False, True],
}
"""Options of our network; all others have their defaults."""

MAX_DIFFERENCE = 0.05
"""Largest relative difference between the FLOPs of networks of equal work."""


def peer(library: str) -> Any:
    """Import a peer's library, which the extra ``peers`` installs; it has no types."""
    return import_module(library)


def missing_peers() -> str:
    """Return the names of peers that are not installed."""
    return ", ".join(name for name in ("diffusers", "denoising_diffusion_pytorch") if find_spec(name) is None)


def our_denoiser(**options: Any) -> Denoiser:
    """Create our untrained denoiser; ``options`` override those of ``EQUAL_WORK``."""
    return create_ddpm(**EQUAL_WORK | options)


def write_checkpoint(path: Path, architecture: dict[str, Any]) -> None:
    """Write a checkpoint of raw and averaged weights, like those of training; untrained and unconditional."""
    weights = create_ddpm(**architecture).state_dict()
    model = get_default_config()["model"]
    model["architecture"] |= architecture
    model["conditioning"] |= {"type": None, "num_classes": None}
    state = {prefix + name: value for prefix in ("denoiser.", "ema.average.") for name, value in weights.items()}
    about = {"format": FORMAT, "config": {"model": model}, "class_names": [], "step": 1}
    torch.save({"state_dict": state, "diffusion_lab": about}, path)


def diffusers_unet(architecture: dict[str, Any] = EQUAL_WORK) -> nn.Module:
    """Create `UNet2DModel` with defaults for all options that the goals do not set."""
    stages = list(zip(architecture["channel_multipliers"], architecture["use_attention"], strict=True))
    network: nn.Module = peer("diffusers").UNet2DModel(
        sample_size=architecture["image_size"],
        in_channels=architecture["in_channels"],
        out_channels=architecture["in_channels"],
        layers_per_block=2,
        block_out_channels=[architecture["model_channels"] * multiplier for multiplier, _ in stages],
        down_block_types=["AttnDownBlock2D" if attention else "DownBlock2D" for _, attention in stages],
        up_block_types=["AttnUpBlock2D" if attention else "UpBlock2D" for _, attention in reversed(stages)],
    )
    return network


def lucidrains_unet() -> nn.Module:
    """Create the `Unet` of denoising_diffusion_pytorch; it has fewer FLOPs, so it is compared per FLOP."""
    network: nn.Module = peer("denoising_diffusion_pytorch").Unet(
        dim=CHANNELS, dim_mults=MULTIPLIERS, channels=IMAGE_SHAPE[0]
    )
    return network


def training_flops(predict: Callable[[Tensor, Tensor], Tensor], shape: tuple[int, int, int] = IMAGE_SHAPE) -> int:
    """Return the operations of the forward and backward pass of an image, with direct convolutions as in the peers."""
    with disable_winograd(), FlopCounterMode(display=False) as counter:
        predict(torch.randn(1, *shape), torch.tensor([3])).sum().backward()
    return int(counter.get_total_flops())


def check_equal_work(ours: float, peers: float) -> None:
    """Raise ValueError if the work differs, since only at equal work can times be compared as speeds."""
    if abs(ours / peers - 1) > MAX_DIFFERENCE:
        raise ValueError(f"the networks must do equal work, got {ours / 1e9:.2f} and {peers / 1e9:.2f} GFLOP per image")
