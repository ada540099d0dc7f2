"""Augmentations compared with what each does to images that can be checked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from diffusion_lab.data.augmentation import LUMA, Augmentation, mirror, recolour, rotate
from diffusion_lab.shapes import from_pixels, to_pixels

EVERYTHING = Augmentation(horizontal_flip=True, rotation_degrees=30, jitter_strength=0.5)


def images(n=64, channels=3, height=8, width=8) -> torch.Tensor:
    return torch.rand(n, channels, height, width, generator=torch.Generator().manual_seed(9)) * 2 - 1


def each(value: float, n: int) -> np.ndarray:
    return np.full(n, value, np.float32)


def none(n: int) -> np.ndarray:
    return np.zeros(n, bool)


def test_no_augmentation_changes_nothing():
    original = images()
    assert Augmentation()(original, 0) is original


@pytest.mark.parametrize("kind", ["images", "pixels"])
def test_flip_mirrors_about_half_of_the_images_and_leaves_the_rest(kind):
    original = images(400) if kind == "images" else to_pixels(images(400))
    flipped = Augmentation(horizontal_flip=True)(original, 0)
    mirrored = (flipped == original.flip(-1)).flatten(1).all(1)
    kept = (flipped == original).flatten(1).all(1)
    assert flipped.dtype == original.dtype
    assert (mirrored ^ kept).all()
    assert 160 < mirrored.sum() < 240


@pytest.mark.parametrize(("height", "width"), [(8, 8), (6, 12)])
def test_rotation_by_half_a_turn(height, width):
    original = images(4, height=height, width=width)
    turned = rotate(original, each(math.pi, 4), none(4))
    torch.testing.assert_close(turned, original.flip(-1, -2), atol=1e-4, rtol=0)


def test_rotation_by_a_quarter_turn():
    original = images(4)
    turned = rotate(original, each(math.pi / 2, 4), none(4))
    torch.testing.assert_close(turned, torch.rot90(original, 1, (-2, -1)), atol=1e-4, rtol=0)


def test_rotation_turns_about_the_centre_each_image_by_its_own_angle():
    point = torch.full((200, 1, 33, 33), -1.0)
    point[:, :, 16, 28] = 1  # twelve pixels to the right of the centre
    turned = Augmentation(rotation_degrees=90)(point, 0) + 1
    mass = turned.sum((1, 2, 3))
    rows, columns = torch.meshgrid(torch.arange(33.0) - 16, torch.arange(33.0) - 16, indexing="ij")
    y, x = ((turned[:, 0] * axis).sum((1, 2)) / mass for axis in (rows, columns))
    torch.testing.assert_close(torch.hypot(x, y), torch.full((200,), 12.0), atol=0.3, rtol=0)
    angles = torch.rad2deg(torch.atan2(y, x))
    assert angles.abs().max() <= 91
    assert angles.std() == pytest.approx(180 / 12**0.5, rel=0.1)  # evenly spread from -90 to 90


def test_non_square_image_is_rotated_not_sheared():
    point = torch.full((1, 1, 17, 65), -1.0)
    point[:, :, 8, 38] = 1  # six pixels to the right of the centre
    turned = rotate(point, each(math.radians(60), 1), none(1))[0, 0] + 1
    rows, columns = torch.meshgrid(torch.arange(17.0) - 8, torch.arange(65.0) - 32, indexing="ij")
    y, x = ((turned * axis).sum() / turned.sum() for axis in (rows, columns))
    assert math.hypot(x, y) == pytest.approx(6, abs=0.3)
    assert abs(math.degrees(math.atan2(y, x))) == pytest.approx(60, abs=3)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (6, 12)])
def test_flip_happens_before_rotation(height, width):
    """Turning does both at once; the result is that of one after the other."""
    original = images(50, height=height, width=width)
    angle = np.linspace(-1, 1, 50, dtype=np.float32)
    mirrored = np.arange(50) % 3 == 0
    one_after_the_other = rotate(mirror(original, mirrored), angle, none(50))
    torch.testing.assert_close(rotate(original, angle, mirrored), one_after_the_other, atol=1e-5, rtol=0)


def test_flips_do_not_depend_on_rotation():
    original = images(40)
    flipped = Augmentation(horizontal_flip=True)(original, 3)
    both = Augmentation(horizontal_flip=True, rotation_degrees=1e-6)(original, 3)
    torch.testing.assert_close(both, flipped, atol=1e-4, rtol=0)
    coloured = Augmentation(horizontal_flip=True, jitter_strength=1e-6)(original, 3)
    torch.testing.assert_close(coloured, flipped, atol=1e-4, rtol=0)


def test_rotation_repeats_the_border():
    flat = torch.full((8, 3, 8, 8), 0.25)
    torch.testing.assert_close(Augmentation(rotation_degrees=45)(flat, 0), flat)


def test_brightness_alone_decides_a_gray_flat_image():
    """Contrast about its own mean and saturation of gray change nothing, so the factor itself can be seen."""
    flat = torch.zeros(2000, 3, 2, 2)  # half of full light
    light = (Augmentation(jitter_strength=0.4)(flat, 0)[:, 0, 0, 0] + 1) / 2
    assert 0.5 * 0.6 <= light.min() < 0.31
    assert 0.69 < light.max() <= 0.5 * 1.4 + 1e-6
    assert light.mean() == pytest.approx(0.5, abs=0.01)


def test_brightness_is_measured_from_black():
    original = images(4) * 0.5
    changed = recolour(original, each(0.5, 4), each(1, 4), each(1, 4))
    torch.testing.assert_close(changed, (original + 1) * 0.5 - 1)


def test_saturation_keeps_the_gray_of_each_pixel():
    original = images(4) * 0.5
    changed = recolour(original, each(1, 4), each(1, 4), each(0.5, 4))
    gray = gray_of(original)
    torch.testing.assert_close(changed, gray + (original - gray) / 2)


@pytest.mark.parametrize("channels", [1, 3])
def test_contrast_scales_about_the_mean_gray(channels):
    original = images(4, channels)
    mean = gray_of(original).mean((2, 3), keepdim=True)
    changed = recolour(original, each(1, 4), each(0.5, 4), each(1, 4))
    torch.testing.assert_close(changed, mean + (original - mean) / 2)


@pytest.mark.parametrize("channels", [1, 3])
def test_combined_jitter_equals_sequential_jitter(channels):
    original = images(5, channels) * 0.3
    factors = [np.linspace(low, high, 5, dtype=np.float32) for low, high in ((0.8, 1.2), (1.3, 0.7), (0.5, 1.5))]
    ones = each(1, 5)
    steps = recolour(original, factors[0], ones, ones)
    steps = recolour(steps, ones, factors[1], ones)
    steps = recolour(steps, ones, ones, factors[2])
    torch.testing.assert_close(recolour(original, *factors), steps)


def gray_of(original: torch.Tensor) -> torch.Tensor:
    if original.shape[1] == 1:
        return original
    return (original * torch.tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_range_shape_and_alpha(channels):
    original = images(32, channels)
    changed = Augmentation(jitter_strength=1.0)(original, 0)
    assert changed.shape == original.shape
    assert changed.abs().max() <= 1
    assert not torch.equal(changed[:, :1], original[:, :1])
    torch.testing.assert_close(changed[:, 3:], original[:, 3:], atol=1e-6, rtol=0)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pixels_and_images_give_the_same_result(channels):
    pixels = to_pixels(images(16, channels))
    torch.testing.assert_close(EVERYTHING(pixels, 5), EVERYTHING(from_pixels(pixels), 5), atol=1e-5, rtol=0)


def test_input_is_unchanged():
    original = images()
    before = original.clone()
    EVERYTHING(original, 0)
    assert torch.equal(original, before)


def test_seed_determines_the_result():
    original = images()
    assert torch.equal(EVERYTHING(original, 1), EVERYTHING(original, 1))
    assert not torch.equal(EVERYTHING(original, 1), EVERYTHING(original, 2))


def test_global_random_state_is_unchanged():
    before = torch.get_rng_state()
    EVERYTHING(images(), 0)
    assert torch.equal(torch.get_rng_state(), before)
