"""Random draws for the loss: times, noise and dropped labels.

Training draws for a batch, from its seed. Validation draws for each image from its index alone, so that the loss is the
same for any batch size, order and number of workers, on any device up to rounding, and changes only with the weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from diffusion_lab.runtime.seeds import derive_seed
from diffusion_lab.shapes import Images, PerImage

GOLDEN_RATIO = (5**0.5 - 1) / 2
"""Stride of ``stratified_quantiles``: its multiples modulo 1 stay farthest apart."""

VALIDATION_DRAWS = "by number"
"""Value in checkpoints that identifies the validation draws: losses are comparable where it is equal."""


class Draws(NamedTuple):
    """Random draws for N images.

    Args:
        share: Quantile of each time in the distribution of times, ``(N,)`` in [0, 1], float64 on the CPU.
        noise: Standard normal ``(N, C, H, W)``, on the device of the images.
        hidden: Uniform in [0, 1) ``(N,)`` on the CPU; labels are dropped where it is below the label dropout.
    """

    share: PerImage
    noise: Images
    hidden: PerImage


def draw_for_batch(clean: Images, seed: int, stratified: bool) -> Draws:
    """Draw for a batch of images.

    Args:
        clean: The images ``(N, C, H, W)``.
        seed: Seed of all draws.
        stratified: Draw one time in each of N quantiles of their distribution (arXiv:2107.00630, appendix I.1);
            otherwise independently.
    """
    # Times are drawn on the CPU, where the tables are, and the noise where it is used. With one seed for both the
    # noise would depend on the time.
    on_cpu = torch.Generator().manual_seed(derive_seed("times", seed))
    on_device = torch.Generator(clean.device).manual_seed(derive_seed("noise", seed))
    count = len(clean)
    share = torch.rand(count, generator=on_cpu, dtype=torch.float64)
    if stratified:
        share = (torch.randperm(count, generator=on_cpu) + share) / count
    noise = torch.randn(clean.shape, generator=on_device, device=clean.device)
    return Draws(share, noise, torch.rand(count, generator=on_cpu))


def draw_by_index(clean: Images, numbers: Sequence[int]) -> Draws:
    """Draw for each image separately, from its index alone, independent of the seed of the run and of the device.

    Args:
        clean: The images ``(N, C, H, W)``.
        numbers: Index of each image in its data set.

    Raises:
        ValueError: There is not one index for each image.
    """
    if len(numbers) != len(clean):
        raise ValueError(f"numbers must hold one for each of the {len(clean)} images, got {len(numbers)}")
    generator = torch.Generator()
    noise, hidden = torch.empty(clean.shape), torch.empty(len(clean))
    for index, number in enumerate(numbers):
        generator.manual_seed(derive_seed("validation", number))
        torch.randn(clean.shape[1:], generator=generator, out=noise[index])
        hidden[index] = torch.rand((), generator=generator)
    return Draws(stratified_quantiles(numbers), noise.to(clean.device), hidden)


def stratified_quantiles(numbers: Sequence[int]) -> PerImage:
    """Map indices ``(N,)`` to evenly spread quantiles in (0, 1), float64, each by its value alone.

    Any run of consecutive indices is spread evenly, so a mean over the times of all images, or of those of one class
    where classes follow one another, has a smaller error than one over independent times. This is the additive
    recurrence (Weyl sequence): the fractional parts of multiples of the golden ratio.
    """
    return (torch.tensor(numbers, dtype=torch.float64) + 0.5).mul(GOLDEN_RATIO).remainder(1)
