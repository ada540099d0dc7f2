"""Samplers: ways from noise to images. One file a method; ``base`` owns the only loop."""

from __future__ import annotations

from diffusion_lab.samplers.base import Sampler
from diffusion_lab.samplers.ddim import DDIMSampler
from diffusion_lab.samplers.ddpm import DDPMSampler

SAMPLERS: dict[str, type[Sampler]] = {
    "ddpm": DDPMSampler,
    "ddim": DDIMSampler,
}
"""The names that ``sampler.type`` takes, beside dotted paths of one's own classes."""

__all__ = ["SAMPLERS", "DDIMSampler", "DDPMSampler", "Sampler"]
