"""What is drawn at random for the loss of a batch: times, noise and hidden labels.

Training draws for a batch, from its seed. Validation draws for each image, from its number alone: its loss is then the
same for any batch size, order and number of workers, and on any device up to rounding, and changes between validations
only with the weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from diffusion_lab.seeds import derive_seed
from diffusion_lab.shapes import Images

GOLDEN_RATIO = (5**0.5 - 1) / 2
"""The stride of ``stratified_quantiles``: of all strides, the one whose multiples, modulo 1, stay farthest apart."""

VALIDATION_DRAWS = "by number"
"""What checkpoints say of the draws of validation: losses are comparable where it is the same."""


class Draws(NamedTuple):
    """What is drawn for N images.

    Args:
        share: Where each time lies in the distribution of times, as a quantile ``(N,)`` in [0, 1], float64 on the CPU.
        noise: Standard normal ``(N, C, H, W)``, on the device of the images.
        hidden: Uniform in [0, 1) ``(N,)`` on the CPU: the labels of those below the label dropout are hidden.
    """

    share: Tensor
    noise: Images
    hidden: Tensor


def draw_for_batch(clean: Images, seed: int, stratified: bool) -> Draws:
    """Draw for a batch of images.

    Args:
        clean: The images ``(N, C, H, W)``.
        seed: Of all that is drawn.
        stratified: Draw one time in each of N equal shares of their distribution (arXiv:2107.00630, appendix I.1).
            Otherwise each is drawn by itself.
    """
    # Times are drawn on the CPU, where the tables are; the noise where it is used. One seed for both would give
    # noise that depends on the time.
    on_cpu = torch.Generator().manual_seed(derive_seed("times", seed))
    on_device = torch.Generator(clean.device).manual_seed(derive_seed("noise", seed))
    count = len(clean)
    share = torch.rand(count, generator=on_cpu, dtype=torch.float64)
    if stratified:
        share = (torch.randperm(count, generator=on_cpu) + share) / count
    noise = torch.randn(clean.shape, generator=on_device, device=clean.device)
    return Draws(share, noise, torch.rand(count, generator=on_cpu))


def draw_by_index(clean: Images, numbers: Sequence[int]) -> Draws:
    """Draw for each image by itself, from its number alone: neither the run's seed nor the device has a part in it.

    Args:
        clean: The images ``(N, C, H, W)``.
        numbers: The number of each image in its data set, from 0.

    Raises:
        ValueError: There is not one number for each image.
    """
    if len(numbers) != len(clean):
        raise ValueError(f"numbers must hold one for each of the {len(clean)} images, got {len(numbers)}")
    generator = torch.Generator()
    noise, hidden = torch.empty(clean.shape), torch.empty(len(clean))
    for index, number in enumerate(numbers):
        generator.manual_seed(derive_seed("validation", number))
        torch.randn(clean.shape[1:], generator=generator, c_out=noise[index])
        hidden[index] = torch.rand((), generator=generator)
    return Draws(stratified_quantiles(numbers), noise.to(clean.device), hidden)


def stratified_quantiles(numbers: Sequence[int]) -> Tensor:
    """Spread numbers ``(N,)`` evenly over (0, 1), float64, each by its value alone.

    Any run of consecutive numbers is spread evenly, so a mean over the times of all images, or of those of one class
    where classes follow one another, has a smaller error than one over independent times. It is the additive
    recurrence (Weyl's sequence): the fractional parts of the multiples of the golden ratio.
    """
    return (torch.tensor(numbers, dtype=torch.float64) + 0.5).mul(GOLDEN_RATIO).remainder(1)
