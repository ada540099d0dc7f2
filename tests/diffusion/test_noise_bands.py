"""The loss by noise level."""

from __future__ import annotations

import torch

from diffusion_lab.diffusion.noise_bands import by_noise_band
from diffusion_lab.metric_names import NOISE_BANDS


def test_each_band_has_the_mean_of_its_images() -> None:
    losses = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    found = by_noise_band(losses, torch.tensor([0.05, 0.5, 0.6, 5.0, 1e3]))
    assert {name: (mean.item(), count) for name, (mean, count) in found.items()} == {
        "low": (1.0, 1),
        "medium": (2.5, 2),
        "high": (4.0, 1),
        "extreme": (5.0, 1),
    }


def test_bands_without_images_are_left_out() -> None:
    assert set(by_noise_band(torch.ones(2), torch.tensor([0.01, 0.02]))) == {"low"}


def test_no_image_left_is_the_noisiest_band() -> None:
    nothing_left = torch.ones(1) / torch.zeros(1)
    assert set(by_noise_band(torch.ones(1), nothing_left)) == {NOISE_BANDS[-1]}
