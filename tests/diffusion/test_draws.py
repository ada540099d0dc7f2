"""The draws of validation for an image follow from its index, and its times are spread evenly."""

from __future__ import annotations

import pytest
import torch

from diffusion_lab.diffusion.draws import draw_by_index, draw_for_batch, stratified_quantiles

IMAGES = torch.zeros(60, 1, 4, 4)


@pytest.mark.parametrize("batch_size", [1, 7, 60])
def test_draws_of_an_image_are_the_same_in_any_batch_and_order(batch_size: int) -> None:
    whole = draw_by_index(IMAGES, range(60))
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0)).tolist()
    for begin in range(0, 60, batch_size):
        numbers = order[begin : begin + batch_size]
        drawn = draw_by_index(IMAGES[: len(numbers)], numbers)
        for given, expected in zip(drawn, whole, strict=True):
            assert torch.equal(given, expected[numbers])


def test_no_two_images_share_their_draws() -> None:
    drawn = draw_by_index(IMAGES, range(60))
    assert len({tuple(noise.flatten().tolist()) for noise in drawn.noise}) == 60
    assert len(set(drawn.share.tolist())) == len(set(drawn.hidden.tolist())) == 60


def test_noise_is_standard_normal_and_hides_labels_by_a_uniform_number() -> None:
    drawn = draw_by_index(torch.zeros(2000, 1, 4, 4), range(2000))
    assert abs(drawn.noise.mean()) < 0.03  # 32,000 numbers: 5 standard errors
    assert abs(drawn.noise.var() - 1) < 0.04
    assert abs((drawn.hidden < 0.1).float().mean() - 0.1) < 0.034


@pytest.mark.parametrize("begin", [0, 1000])
@pytest.mark.parametrize("count", [13, 50, 500])
def test_consecutive_numbers_have_times_spread_evenly(begin: int, count: int) -> None:
    """The discrepancy of independent numbers is about 1/√n, that of these 1/n times a logarithm."""
    ordered = stratified_quantiles(range(begin, begin + count)).sort().values
    places = torch.arange(1, count + 1, dtype=torch.float64) / count
    discrepancy = float(torch.maximum((ordered - places).abs(), (ordered - places + 1 / count).abs()).max())
    assert discrepancy < 3 / count
    assert 0 < float(ordered[0]) < float(ordered[-1]) < 1


def test_the_mean_of_a_smooth_loss_varies_less_than_over_independent_times() -> None:
    def error(shares: torch.Tensor) -> float:
        return abs(float(shares.square().mean()) - 1 / 3)

    independent = [error(draw_for_batch(IMAGES, seed, stratified=False).share) for seed in range(100)]
    even = [error(stratified_quantiles(range(begin, begin + 60))) for begin in range(100)]
    assert sum(even) < sum(independent) / 2


def test_a_number_for_each_image() -> None:
    with pytest.raises(ValueError, match="numbers must hold one for each of the 60 images, got 59"):
        draw_by_index(IMAGES, range(59))
