"""Pixels and their range, numbers per image, and seeds with a name."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diffusion_lab.runtime.seeds import derive_seed, derive_uniform
from diffusion_lab.shapes import from_pixels, per_image, to_pixels


def test_every_pixel_value_survives_conversion_and_back():
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    images = from_pixels(pixels)
    assert images.dtype == torch.float32
    assert (images.min().item(), images.max().item()) == (-1, 1)
    assert torch.equal(to_pixels(images), pixels)


def test_pixels_are_rounded_and_clipped():
    images = torch.tensor([-3.0, -1 + 0.9 / 255, -1 + 1.1 / 255, 0.999, 7.0])
    assert to_pixels(images).tolist() == [0, 0, 1, 255, 255]


def test_a_number_per_image_takes_type_and_shape_of_the_images():
    images = torch.ones(2, 3, 4, 4)
    shaped = per_image(torch.tensor([1.0, 2.0], dtype=torch.float64), images)
    assert (shaped.shape, shaped.dtype) == ((2, 1, 1, 1), torch.float32)
    assert (shaped * images)[1].unique().tolist() == [2]
    assert per_image(0.5, images) == 0.5


def test_seed_depends_on_every_part_and_its_position():
    seeds = [derive_seed(*parts) for parts in ((0,), (1,), ("a", 1, 2), ("a", 2, 1), ("b", 1, 2), ("a", 12))]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_seed_is_the_same_on_all_machines_and_versions():
    """Recorded: saved images and resumed runs rely on these numbers."""
    assert derive_seed("image", 0, 0) == RECORDED
    assert derive_seed("image", 0, 0) != derive_seed("image", 0, 1)


RECORDED = 1389397352385362954


def test_derived_uniform_numbers_are_uniform_and_stable():
    drawn = derive_uniform((3, 5000), "augmentation", 1)
    assert drawn.shape == (3, 5000)
    assert abs(drawn).max() <= 1
    assert abs(drawn.mean(1)).max() < 0.03
    assert drawn.std(1) == pytest.approx(3**-0.5, rel=0.03)
    assert abs(np.corrcoef(drawn)[np.triu_indices(3, 1)]).max() < 0.05
    assert derive_uniform((2,), "augmentation", 1).tolist() == drawn.ravel()[:2].tolist()
    assert np.isin(derive_uniform((3, 5000), "augmentation", 2), drawn).mean() < 0.01


def test_draws_are_stable_across_versions():
    """Augmentation follows from it: a run that is resumed by a later version must go on with the same images."""
    assert derive_uniform((2,), "augmentation", 0) == pytest.approx([0.9685259461402893, -0.7193259596824646])
