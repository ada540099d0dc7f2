"""The loss by noise level."""

from __future__ import annotations

import torch

from diffusion_lab.diffusion.level import Level
from diffusion_lab.diffusion.noise_bands import NOISE_BANDS, by_noise_band


def level_of(ratios: list[float]) -> Level[torch.Tensor]:
    """Levels of a variance-preserving process with these ratios of noise to signal."""
    ratio = torch.tensor(ratios, dtype=torch.float64)
    alpha = (1 + ratio.square()).rsqrt()
    return Level(alpha, (1 - alpha.square()).sqrt(), torch.zeros(len(ratios)))


def test_each_band_has_the_mean_of_its_images() -> None:
    losses = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    found = by_noise_band(losses, level_of([0.05, 0.5, 0.6, 5.0, 1e3]))
    assert {name: (mean.item(), count) for name, (mean, count) in found.items()} == {
        "low": (1.0, 1),
        "medium": (2.5, 2),
        "high": (4.0, 1),
        "extreme": (5.0, 1),
    }


def test_bands_without_images_are_left_out() -> None:
    assert set(by_noise_band(torch.ones(2), level_of([0.01, 0.02]))) == {"low"}


def test_no_image_left_is_the_noisiest_band() -> None:
    nothing_left = Level(torch.zeros(1), torch.ones(1), torch.ones(1))
    assert set(by_noise_band(torch.ones(1), nothing_left)) == {NOISE_BANDS[-1]}
