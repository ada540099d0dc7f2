"""Batches of images: one is generated at a time, in evaluation mode and without gradients."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

from diffusion_lab.cpu import cpu_optimizations
from diffusion_lab.denoiser import Denoiser
from diffusion_lab.guidance import Guidance, guided
from diffusion_lab.samplers import Sampler
from diffusion_lab.sampling.finite_samples import FiniteCheck
from diffusion_lab.sampling.request import SamplingRequest
from diffusion_lab.shapes import Images


@dataclass(frozen=True)
class SampleBatch:
    """Finished images of one batch.

    Args:
        first: Index of its first image among all requested images, counted from the argument ``first``.
        images: Float tensor ``(N, C, H, W)`` in [-1, 1].
        labels: Class of each image; None if they were sampled without labels.
    """

    first: int
    images: Images
    labels: list[int] | None = None


class BatchGenerator:
    """Generate any slice of the images of a request.

    Raises:
        ValueError: The sampler does not support the noise process.
    """

    def __init__(
        self, denoiser: Denoiser, request: SamplingRequest, sampler: Sampler, guidance: Guidance, device: torch.device
    ) -> None:
        self.denoiser, self.request, self.sampler, self.guidance = denoiser, request, sampler, guidance
        self.device = device
        self.levels = sampler.levels(denoiser.schedule)

    def __call__(self, part: slice, advance: Callable[[float], None]) -> SampleBatch:
        """Generate the images of a slice; ``advance`` is called with the number of images done so far."""
        denoiser, device, request = self.denoiser, self.device, self.request
        count, first = part.stop - part.start, request.first + part.start
        label = None if request.labels is None else request.labels[part].to(device)
        denoise = guided(denoiser, request.scales[part], self.guidance)
        images, noise = request.starting_noise(part, device)
        steps = len(self.levels) - 1
        finite_check = FiniteCheck(denoiser, first, count, steps, device)
        trajectory = self.sampler.trajectory(
            lambda x, level: finite_check.check(denoise(x, level, label)), images, self.levels, noise
        )
        with eval_mode(denoiser), cpu_optimizations(device, fixed=denoiser), torch.no_grad():
            for step, x in enumerate(trajectory, start=1):
                images = finite_check.check(x)
                finite_check.finish_step()
                advance(part.start + count * step / steps)
        finished = finite_check.finish(images.clamp(-1, 1))
        return SampleBatch(first, finished, None if request.labels is None else request.labels[part].tolist())


@contextlib.contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode inside the block, and each of its modules back into its own mode afterwards."""
    modes = {module: module.training for module in model.modules()}
    try:  # also around eval(), which a signal can interrupt halfway
        model.eval()
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
