"""Augmentations compared with what each does to images that can be checked by hand."""

from __future__ import annotations

import pytest
import torch

from diffusion_lab.data import augmentation
from diffusion_lab.data.augmentation import LUMA, Augmentation, flip, jitter, rotate


def generator(seed=0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(n=64, channels=3, height=8, width=8) -> torch.Tensor:
    return torch.rand(n, channels, height, width, generator=generator(9)) * 2 - 1


def draws(monkeypatch, *values):
    """Let every image draw these shares of what it may draw, one after the other."""
    waiting = iter(values)

    def uniform(batch, _, low, high):
        return torch.full((len(batch),), low + next(waiting) * (high - low))

    monkeypatch.setattr(augmentation, "_uniform", uniform)


EVERYTHING = Augmentation(horizontal_flip=True, rotation_degrees=30, jitter_strength=0.5)


def test_nothing_chosen_changes_nothing_and_draws_nothing():
    original, source = images(), generator()
    before = source.get_state()
    assert Augmentation()(original, source) is original
    assert torch.equal(source.get_state(), before)


def test_flip_mirrors_about_half_of_the_images_and_leaves_the_rest():
    original = images(400)
    flipped = flip(original, generator())
    mirrored = (flipped == original.flip(-1)).flatten(1).all(1)
    kept = (flipped == original).flatten(1).all(1)
    assert (mirrored ^ kept).all()
    assert 160 < mirrored.sum() < 240


@pytest.mark.parametrize(("height", "width"), [(8, 8), (6, 12)])
def test_rotation_by_half_a_turn(monkeypatch, height, width):
    draws(monkeypatch, 1.0)
    original = images(4, height=height, width=width)
    torch.testing.assert_close(rotate(original, 180, generator()), original.flip(-1, -2), atol=1e-4, rtol=0)


def test_rotation_by_a_quarter_turn(monkeypatch):
    draws(monkeypatch, 1.0)
    original = images(4)
    turned = rotate(original, 90, generator())
    candidates = [torch.rot90(original, k, (-2, -1)) for k in (1, -1)]
    assert any(torch.allclose(turned, candidate, atol=1e-4) for candidate in candidates)


def test_rotation_turns_about_the_centre_each_image_by_its_own_angle():
    point = torch.full((200, 1, 33, 33), -1.0)
    point[:, :, 16, 28] = 1  # twelve pixels to the right of the centre
    turned = rotate(point, 90, generator()) + 1
    mass = turned.sum((1, 2, 3))
    rows, columns = torch.meshgrid(torch.arange(33.0) - 16, torch.arange(33.0) - 16, indexing="ij")
    y, x = ((turned[:, 0] * axis).sum((1, 2)) / mass for axis in (rows, columns))
    torch.testing.assert_close(torch.hypot(x, y), torch.full((200,), 12.0), atol=0.3, rtol=0)
    angles = torch.rad2deg(torch.atan2(y, x))
    assert angles.abs().max() <= 91
    assert angles.std() == pytest.approx(180 / 12**0.5, rel=0.1)  # evenly spread from -90 to 90


@pytest.mark.parametrize(("height", "width"), [(8, 8), (6, 12)])
def test_mirrored_on_the_way_is_mirrored_first(height, width):
    """Turning does both at once; the result is that of one after the other."""
    original = images(50, height=height, width=width)
    at_once = Augmentation(horizontal_flip=True, rotation_degrees=40)(original, generator())
    source = generator()
    torch.testing.assert_close(at_once, rotate(flip(original, source), 40, source), atol=1e-5, rtol=0)


def test_rotation_repeats_the_border():
    flat = torch.full((8, 3, 8, 8), 0.25)
    torch.testing.assert_close(rotate(flat, 45, generator()), flat)


def test_brightness_alone_decides_a_gray_flat_image():
    """Contrast about its own mean and saturation of gray change nothing, so the factor itself can be seen."""
    flat = torch.zeros(2000, 3, 2, 2)  # half of full light
    light = (jitter(flat, 0.4, generator())[:, 0, 0, 0] + 1) / 2
    assert 0.5 * 0.6 <= light.min() < 0.31
    assert 0.69 < light.max() <= 0.5 * 1.4
    assert light.mean() == pytest.approx(0.5, abs=0.01)


def test_saturation_keeps_the_gray_of_each_pixel(monkeypatch):
    # the three factors 1, 1 and 1 - strength: brightness and contrast unchanged, half of the colour gone
    draws(monkeypatch, 0.5, 0.5, 0.0)
    original = images(4) * 0.5
    changed = jitter(original, 0.5, generator())
    luma = torch.tensor(LUMA).view(1, 3, 1, 1)
    gray = (original * luma).sum(1, keepdim=True)
    torch.testing.assert_close(changed, gray + (original - gray) / 2)


def test_contrast_scales_about_the_mean(monkeypatch):
    draws(monkeypatch, 0.5, 0.0)
    original = images(4, channels=1)
    mean = original.mean((2, 3), keepdim=True)
    torch.testing.assert_close(jitter(original, 0.5, generator()), mean + (original - mean) / 2)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_range_shape_and_alpha(channels):
    original = images(32, channels)
    changed = jitter(original, 1.0, generator())
    assert changed.shape == original.shape
    assert changed.abs().max() <= 1
    assert not torch.equal(changed[:, :1], original[:, :1])
    assert torch.equal(changed[:, 3:], original[:, 3:])


def test_the_generator_decides():
    original = images()
    assert torch.equal(EVERYTHING(original, generator(1)), EVERYTHING(original, generator(1)))
    assert not torch.equal(EVERYTHING(original, generator(1)), EVERYTHING(original, generator(2)))


def test_the_global_random_state_stays():
    before = torch.get_rng_state()
    EVERYTHING(images(), generator())
    assert torch.equal(torch.get_rng_state(), before)
