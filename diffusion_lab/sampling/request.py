"""Arguments of a sampling call, checked against the model: number of images, labels, scales, seed, starting noise."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_lab.arguments import check_integer
from diffusion_lab.denoiser import Denoiser
from diffusion_lab.guidance import guidance_scales
from diffusion_lab.sampling.image_noise import ImageNoise
from diffusion_lab.sampling.labels import check_labels
from diffusion_lab.shapes import Images, Labels


@dataclass(frozen=True)
class SamplingRequest:
    """Checked arguments of one sampling call; create it with ``create``.

    Args:
        image_shape: ``(C, H, W)``.
        first: Index of the first image.
        labels: Labels ``(N,)``; None samples without labels.
        scales: Guidance scale of each image ``(N,)``.
        seed: Seed of the images.
        noise: Starting noise ``(N, C, H, W)``; None draws it from the seed.
    """

    image_shape: tuple[int, ...]
    first: int
    labels: Labels | None
    scales: Tensor
    seed: int
    noise: Images | None

    @classmethod
    def create(
        cls,
        denoiser: Denoiser,
        num_samples: int,
        class_labels: Sequence[int | str] | Labels | None,
        guidance_scale: float | Sequence[float] | Tensor | None,
        seed: int | None,
        first: int,
        noise: Images | None,
    ) -> SamplingRequest:
        """Check the arguments of ``DiffusionSampler.sample``. Raises ValueError naming the argument."""
        check_integer("num_samples", num_samples, 1)
        check_integer("first", first, 0)
        if seed is not None:
            check_integer("seed", seed, 0)
        return cls(
            denoiser.image_shape,
            int(first),
            check_labels(denoiser, num_samples, class_labels),
            _checked_scales(num_samples, guidance_scale),
            secrets.randbits(32) if seed is None else int(seed),
            None if noise is None else _checked_noise((num_samples, *denoiser.image_shape), noise),
        )

    def starting_noise(self, part: slice, device: torch.device) -> tuple[Images, ImageNoise]:
        """Return the starting noise of a slice of the images, and the source of the noise added by its steps.

        The steps add the same noise as without given starting noise.
        """
        draw = ImageNoise(self.seed, range(self.first + part.start, self.first + part.stop), self.image_shape, device)
        drawn = draw()
        return (drawn if self.noise is None else self.noise[part].to(device)), draw


def _checked_scales(num_samples: int, scale: float | Sequence[float] | Tensor | None) -> Tensor:
    scales = guidance_scales(scale)
    if scales.shape not in ((), (num_samples,)):
        raise ValueError(
            f"guidance_scale must be one number, or one for each of the {num_samples} images, got {scales.numel()}"
        )
    return scales.expand(num_samples)


def _checked_noise(shape: tuple[int, ...], noise: Images) -> Images:
    rule = f"noise must be a tensor of standard normal numbers of shape {shape}, one image each"
    if not isinstance(noise, Tensor):
        raise ValueError(f"{rule}, got {type(noise).__name__}")
    if tuple(noise.shape) != shape:
        raise ValueError(f"{rule}, got shape {tuple(noise.shape)}")
    if not noise.is_floating_point():
        raise ValueError(f"{rule}, got {noise.dtype}")
    bad = (~noise.isfinite()).flatten(1).any(dim=1)
    if bool(bad.any()):
        raise ValueError(f"{rule}, got NaN or infinity in image {int(bad.nonzero()[0])}")
    return noise.detach().to(torch.float32)
