"""The standard deviation of the training pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from diffusion_lab.checkpoint import find_checkpoint, load_denoiser, read_checkpoint
from diffusion_lab.data.source import ArraySource
from diffusion_lab.training.sigma_data import MOST_IMAGES, with_measured_sigma_data
from tests.training.tiny import tiny_config, tiny_run

EDM = {"model.diffusion.type": "edm", "model.diffusion.prediction": "edm"}


def black_and_white(count: int) -> ArraySource:
    """Half of all pixels black, half white: a deviation of one."""
    images = np.zeros((count, 1, 8, 8), np.uint8)
    images[..., :4] = 255
    return ArraySource(images, [0] * count, ())


@pytest.mark.parametrize("count", [1, 3, MOST_IMAGES + 7])
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
    assert with_measured_sigma_data(config, black_and_white(2)) is config


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
