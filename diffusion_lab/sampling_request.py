"""Arguments of a sampling call, checked against the model: number of images, labels, scales, seed, starting noise."""

from __future__ import annotations

import reprlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_lab.denoiser import Denoiser
from diffusion_lab.guidance import guidance_scales
from diffusion_lab.runtime.seeds import derive_seed
from diffusion_lab.shapes import Images, Labels


class ImageNoise:
    """Standard normal noise with a separate generator for each image.

    The noise of image i depends only on the seed and on i: not on its batch, and not on the device, since the numbers
    are drawn on the CPU.

    Args:
        seed: Seed of all images.
        indices: Indices of the ``N`` images of this batch.
        image_shape: ``(C, H, W)``.
        device: Device of the noise.
    """

    def __init__(self, seed: int, indices: Sequence[int], image_shape: tuple[int, ...], device: torch.device) -> None:
        self.generators = [torch.Generator().manual_seed(derive_seed("image", seed, index)) for index in indices]
        self.image_shape = image_shape
        self.device = device

    def __call__(self) -> Images:
        """Draw the next noise of each image, ``(N, C, H, W)``."""
        noise = [torch.randn(self.image_shape, generator=generator) for generator in self.generators]
        return torch.stack(noise).to(self.device)


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
        class_labels: Sequence[int] | Labels | None,
        guidance_scale: float | Sequence[float] | Tensor | None,
        seed: int | None,
        first: int,
        noise: Images | None,
    ) -> SamplingRequest:
        """Check the arguments of ``DiffusionSampler.sample``. Raises ValueError naming the argument."""
        if num_samples < 1:
            raise ValueError(f"num_samples must be at least 1, got {num_samples}")
        for name, value in (("seed", seed or 0), ("first", first)):
            if value < 0:
                raise ValueError(f"{name} must be at least 0, got {value}")
        return cls(
            denoiser.image_shape,
            first,
            _checked_labels(denoiser.num_classes, num_samples, class_labels),
            _checked_scales(num_samples, guidance_scale),
            secrets.randbits(32) if seed is None else seed,
            None if noise is None else _checked_noise((num_samples, *denoiser.image_shape), noise),
        )

    def starting_noise(self, part: slice, device: torch.device) -> tuple[Images, ImageNoise]:
        """Return the starting noise of a slice of the images, and the source of the noise added by its steps.

        The steps add the same noise as without given starting noise.
        """
        draw = ImageNoise(self.seed, range(self.first + part.start, self.first + part.stop), self.image_shape, device)
        drawn = draw()
        return (drawn if self.noise is None else self.noise[part].to(device)), draw


def _checked_labels(num_classes: int | None, num_samples: int, labels: Sequence[int] | Tensor | None) -> Labels | None:
    if labels is None:
        return None
    if num_classes is None:
        raise ValueError("class_labels were given, but the model is unconditional: leave them out")
    try:
        label = torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            "class_labels must be class numbers, a name is denoiser.class_names.index(name), "
            f"got {reprlib.repr(labels)}"
        ) from error
    if label.shape != (num_samples,):
        got = label.numel() if label.ndim == 1 else f"an array of shape {tuple(label.shape)}"
        raise ValueError(f"class_labels must hold one label for each of the {num_samples} images, got {got}")
    if label.is_floating_point() or label.dtype == torch.bool:
        raise ValueError(f"class_labels must be class numbers, got {label.tolist()}")
    label = label.to("cpu", torch.int64)
    outside = sorted({int(value) for value in label if not 0 <= value < num_classes})
    if outside:
        raise ValueError(f"class_labels must lie in 0 to {num_classes - 1}, got {outside}")
    return label


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
