"""The standard deviation of the training pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from diffusion_lab.checkpoint import find_checkpoint, load_denoiser, read_checkpoint
from diffusion_lab.data.source import ArraySource
from diffusion_lab.diffusion.weighting import EDMWeighting
from diffusion_lab.training.sigma_data import MAX_IMAGES, with_measured_sigma_data
from diffusion_lab.training.sources import create_datamodule
from tests.training.tiny import tiny_config, tiny_run

EDM = {"model.diffusion.type": "edm", "model.diffusion.prediction": "edm"}


def black_and_white(count: int) -> ArraySource:
    """Half of all pixels black, half white: a deviation of one."""
    images = np.zeros((count, 1, 8, 8), np.uint8)
    images[..., :4] = 255
    return ArraySource(images, [0] * count, ())


@pytest.mark.parametrize("count", [1, 3, MAX_IMAGES + 7])
def test_deviation_is_that_of_the_pixels_in_their_range(tmp_path: Path, count: int) -> None:
    measured = with_measured_sigma_data(tiny_config(tmp_path, EDM), black_and_white(count))
    assert measured.model.diffusion.sigma_data == 1.0


def test_noise_of_known_deviation(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).normal(127.5, 30, (500, 1, 8, 8)).clip(0, 255).astype(np.uint8)
    measured = with_measured_sigma_data(tiny_config(tmp_path, EDM), ArraySource(pixels, [0] * 500, ()))
    assert measured.model.diffusion.sigma_data == pytest.approx(30 / 127.5, rel=0.02)


@pytest.mark.parametrize("changes", [{**EDM, "model.diffusion.sigma_data": 0.7}, {"model.diffusion.prediction": "v"}])
def test_a_number_given_or_not_read_is_left_alone(tmp_path: Path, changes: dict[str, object]) -> None:
    config = tiny_config(tmp_path, changes)
    assert with_measured_sigma_data(config, black_and_white(2)) == config


WEIGHTED = {"training.loss": {"weighting": {"type": "edm"}}}
"""Without a number, as with ``sigma_data: auto``."""


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"model.diffusion.prediction": "v"}, 1.0),
        (EDM, 1.0),
        ({**EDM, "model.diffusion.sigma_data": 0.7}, 0.7),
        ({"model.diffusion.prediction": "v", "model.diffusion.sigma_data": 0.7}, 1.0),  # which v does not read
    ],
)
@pytest.mark.parametrize("options", [{}, {"sigma_data": "auto"}])
def test_the_weighting_takes_the_number_of_the_prediction_or_the_measured_one(
    tmp_path: Path, changes: dict[str, object], expected: float, options: dict[str, object]
) -> None:
    weighting = {"training.loss": {"weighting": {"type": "edm", **options}}}
    measured = with_measured_sigma_data(tiny_config(tmp_path, {**changes, **weighting}), black_and_white(9))
    assert measured.training.loss.weighting.build() == EDMWeighting(expected)


def test_a_number_of_the_weighting_is_left_alone(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, {"training.loss": {"weighting": {"type": "edm", "sigma_data": 0.3}}})
    assert with_measured_sigma_data(config, black_and_white(2)).training.loss.weighting.build() == EDMWeighting(0.3)


def test_the_number_of_the_weighting_is_recorded_and_trained_with(tmp_path: Path) -> None:
    tiny_run(tmp_path, WEIGHTED)
    settings = read_checkpoint(find_checkpoint(tmp_path, "last")).config
    assert settings is not None
    images = create_datamodule(tiny_config(tmp_path, WEIGHTED), seed=0).train
    measured = with_measured_sigma_data(tiny_config(tmp_path, WEIGHTED), images).training.loss.weighting
    assert settings["training"]["loss"]["weighting"] == measured.model_dump() != {"type": "edm", "sigma_data": 0.5}


def test_images_of_one_colour_have_none(tmp_path: Path) -> None:
    black = ArraySource(np.zeros((2, 1, 8, 8), np.uint8), [0, 0], ())
    with pytest.raises(ValueError, match=r"model\.diffusion\.sigma_data auto .* which is 0 here"):
        with_measured_sigma_data(tiny_config(tmp_path, EDM), black)


def test_the_checkpoint_holds_the_number(tmp_path: Path) -> None:
    tiny_run(tmp_path, {**EDM, "sampler": {"type": "heun", "steps": 3, "spacing": "karras"}})
    settings = read_checkpoint(find_checkpoint(tmp_path, "last")).config
    assert settings is not None
    sigma_data = settings["model"]["diffusion"]["sigma_data"]
    assert 0 < sigma_data < 2
    assert load_denoiser(tmp_path).parameterization.sigma_data == sigma_data
