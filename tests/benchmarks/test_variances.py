"""The comparison of both variances: distances, and the jackknife error of their difference over seeds."""

from __future__ import annotations

import math

import pytest
import torch

from benchmarks import variances
from diffusion_lab.create import create_ddpm
from diffusion_lab.shapes import Pixels


class Mean:
    """Classifier stand-in whose distance is the mean pixel: its jackknife error is the standard error of a mean."""

    def pixel_fd_ratio(self, pixels: Pixels) -> float:
        return float(pixels.double().mean())


def pair(small: int, large: int) -> variances.Pair:
    return variances.Pair(*(torch.full((2, 1, 8, 8), value, dtype=torch.uint8) for value in (small, large)))


def test_the_error_is_that_of_a_mean_of_differences():
    comparison = variances.compare(Mean(), [pair(10, 14), pair(30, 32), pair(20, 29)])
    differences = torch.tensor([4.0, 2.0, 9.0])
    assert comparison[:3] == pytest.approx((20, 25, 5))
    assert comparison.error == pytest.approx(float(differences.std()) / math.sqrt(3))


def test_one_seed_gives_no_error():
    comparison = variances.compare(Mean(), [pair(10, 14)])
    assert variances.row(10, 250, comparison) == "| 10 | 250 | 10.000 | 14.000 | +4.0000 ± nan |"


def test_both_variances_start_equal_and_end_different():
    denoiser = create_ddpm(
        image_size=8, in_channels=1, model_channels=8, channel_multipliers=[1], use_attention=[False], num_classes=10
    )
    drawn = variances.draw(denoiser.eval(), 2, 1, per_class=2)
    assert drawn.small.shape == drawn.large.shape == (20, 1, 8, 8)
    assert not torch.equal(drawn.small, drawn.large)
    again = variances.draw(denoiser, 2, 1, per_class=2)
    assert torch.equal(drawn.small, again.small)
    assert torch.equal(drawn.large, again.large)
