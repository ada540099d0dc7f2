"""Sampling from a denoiser: seeds, labels, batches, averaged weights and a progress bar around a sampler."""

from __future__ import annotations

from diffusion_lab.sampling.batches import SampleBatch
from diffusion_lab.sampling.finite_samples import NonFiniteSamplesError
from diffusion_lab.sampling.sampler import DiffusionSampler

__all__ = ["DiffusionSampler", "NonFiniteSamplesError", "SampleBatch"]
