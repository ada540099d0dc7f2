"""Conversion of every kind of Pillow image, each compared with values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from diffusion_lab.data.pixels import (
    background_colour,
    convert_arrays,
    cut_square,
    decode_image,
    resize_and_crop,
    resize_to_strip,
    to_array,
    to_channels,
)

WHITE, BLACK, RED = (255, 255, 255), (0, 0, 0), (255, 0, 0)


def pixel(image, channels, background=WHITE):
    """The top left pixel after conversion."""
    return to_array(to_channels(image, channels, background))[:, 0, 0].tolist()


def half_red() -> Image.Image:
    return Image.new("RGBA", (2, 2), (255, 0, 0, 128))


def palette(transparency=None) -> Image.Image:
    image = Image.new("P", (2, 2), 1)
    image.putpalette([9, 9, 9, 10, 20, 30])
    if transparency is not None:
        image.info["transparency"] = transparency
    return image


@pytest.mark.parametrize(
    ("image", "channels", "background", "expected"),
    [
        (Image.new("L", (2, 2), 7), 1, WHITE, [7]),
        (Image.new("L", (2, 2), 7), 3, WHITE, [7, 7, 7]),
        (Image.new("L", (2, 2), 7), 4, WHITE, [7, 7, 7, 255]),
        (Image.new("1", (2, 2), 1), 3, WHITE, [255, 255, 255]),
        (Image.new("RGB", (2, 2), (10, 20, 30)), 4, WHITE, [10, 20, 30, 255]),
        (Image.new("RGB", (2, 2), RED), 1, WHITE, [76]),
        (half_red(), 4, WHITE, [255, 0, 0, 128]),
        (half_red(), 3, WHITE, [255, 127, 127]),
        (half_red(), 3, BLACK, [128, 0, 0]),
        (half_red(), 1, BLACK, [38]),
        (Image.new("LA", (2, 2), (0, 0)), 1, WHITE, [255]),
        (Image.new("LA", (2, 2), (40, 0)), 4, WHITE, [40, 40, 40, 0]),
        (palette(), 3, WHITE, [10, 20, 30]),
        (palette(transparency=1), 3, RED, [255, 0, 0]),
        (palette(transparency=0), 3, RED, [10, 20, 30]),
        (palette(transparency=b"\xff\x00"), 3, RED, [255, 0, 0]),
        (palette(transparency=1), 4, RED, [10, 20, 30, 0]),
        (Image.new("CMYK", (2, 2), (0, 255, 255, 0)), 3, WHITE, [255, 0, 0]),
    ],
)
def test_modes(image, channels, background, expected):
    assert pixel(image, channels, background) == expected


def test_transparent_colour_of_an_rgb_image_becomes_background():
    image = Image.new("RGB", (2, 2), (1, 2, 3))
    image.info["transparency"] = (1, 2, 3)
    assert pixel(image, 3, RED) == [255, 0, 0]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 257, 32896, 65535]], dtype=np.uint16), [0, 1, 128, 255]),
        (np.array([[0, 100]], dtype=np.uint16), [0, 0]),
        (np.array([[0, 257, 32896, 65535]], dtype=np.int32), [0, 1, 128, 255]),
        (np.array([[-1000, 0, 1000]], dtype=np.int32), [0, 128, 255]),
        (np.array([[0.0, 0.5, 1.0]], dtype=np.float32), [0, 128, 255]),
        (np.array([[0.0, 100.0, 255.0]], dtype=np.float32), [0, 100, 255]),
        (np.array([[-1.0, 0.0, 3.0]], dtype=np.float32), [0, 64, 255]),
        (np.array([[5e9, 5e9]], dtype=np.float32), [0, 0]),
    ],
)
def test_deep_images_keep_their_range(values, expected):
    assert to_array(to_channels(Image.fromarray(values), 1, WHITE))[0, 0].tolist() == expected


def test_floats_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="finite"):
        to_channels(Image.fromarray(np.array([[np.nan]], dtype=np.float32)), 1, WHITE)


def stripes(width, height) -> Image.Image:
    """Each pixel holds its own column (red) and row (green)."""
    rows, columns = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([columns, rows, 0 * rows], -1).astype(np.uint8))


def test_crop_takes_the_middle():
    wide = resize_and_crop(stripes(20, 8), 8)
    assert (wide[0, 0, 0], wide[0, 0, -1], wide[1, 0, 0], wide[1, -1, 0]) == (6, 13, 0, 7)
    tall = resize_and_crop(stripes(8, 20), 8)
    assert (tall[0, 0, 0], tall[0, 0, -1], tall[1, 0, 0], tall[1, -1, 0]) == (0, 7, 6, 13)


@pytest.mark.parametrize(("size", "axis"), [((20, 8), 0), ((8, 20), 1)])
def test_random_cut_reaches_both_ends_and_follows_the_generator(size, axis):
    strip = resize_to_strip(stripes(*size), 8)
    firsts = [int(cut_square(strip, 8, np.random.default_rng(seed))[axis, 0, 0]) for seed in range(200)]
    assert set(firsts) == set(range(13))
    assert cut_square(strip, 8, np.random.default_rng(3))[axis, 0, 0] == firsts[3]
    assert cut_square(strip, 8, None)[axis, 0, 0] == 6


@pytest.mark.parametrize(
    ("size", "becomes"),
    [((20, 8), (20, 8)), ((16, 20), (8, 10)), ((4, 6), (8, 12)), ((1, 9000), (8, 64)), ((7, 7), (8, 8))],
)
def test_strip_has_the_requested_short_side_and_limited_length(size, becomes):
    assert resize_to_strip(Image.new("L", size), 8).shape[:0:-1] == becomes


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (3, 2), (8, 8), (9, 8), (501, 333)])
def test_any_size_becomes_the_requested_square(size):
    flat = Image.new("RGB", size, (10, 20, 30))
    array = resize_and_crop(flat, 8)
    assert array.shape == (3, 8, 8)
    assert array.reshape(3, -1).T.tolist() == [[10, 20, 30]] * 64


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
@pytest.mark.parametrize("size", [(37, 41), (41, 160), (300, 200), (9, 7)])
def test_resizing_is_pillows_bicubic_up_to_rounding(mode, size):
    channels = len(mode)
    # no extremes: what is clipped between the two directions depends on which comes first
    noise = np.random.default_rng(0).integers(64, 192, (size[1], size[0], channels), dtype=np.uint8)
    image = Image.fromarray(noise.squeeze()).convert(mode)
    ours, short = resize_to_strip(image, 24), min(size)
    scaled = image.resize(tuple(round(side * 24 / short) for side in size), Image.Resampling.BICUBIC)
    difference = np.abs(ours.astype(int) - to_array(scaled))
    if mode == "RGBA":  # colours are rounded where they are weighed by alpha, and again where the weight is taken off
        difference = difference * ours[3] / 255
    assert difference.max() < 3
    assert difference.mean() < 0.35


def test_reduction_averages_instead_of_picking_pixels():
    board = Image.fromarray((np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8))
    small = resize_and_crop(board, 8)
    assert np.abs(small.astype(int) - 127).max() <= 4


def test_hidden_colour_of_transparent_pixels_does_not_bleed():
    image = Image.new("RGBA", (8, 8), (0, 255, 0, 0))
    image.paste((255, 0, 0, 255), (0, 0, 4, 8))
    small = resize_and_crop(image, 3)
    assert small[1][small[3] > 8].max() == 0


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side: turn clockwise to see it upright
    stripes(6, 4).save(tmp_path / "a.png", exif=exif)
    with decode_image(tmp_path / "a.png", 4) as upright:
        pass
    assert upright.size == (4, 6)
    assert np.asarray(upright)[0, :, 1].tolist() == [3, 2, 1, 0]


def test_large_jpeg_is_decoded_small_but_never_below_twice_the_size(tmp_path):
    Image.new("RGB", (1600, 1000), (200, 100, 50)).save(tmp_path / "a.jpg")
    with decode_image(tmp_path / "a.jpg", 32) as image:
        pass
    assert image.size == (200, 125)
    assert np.abs(np.asarray(image).astype(int) - (200, 100, 50)).max() <= 3


@pytest.mark.parametrize(("name", "colour"), [("white", WHITE), ("#ff0000", RED), ("#ff000080", RED)])
def test_background_names(name, colour):
    assert background_colour(name) == colour


def test_unknown_background_is_named():
    with pytest.raises(ValueError, match=r"data\.background .*'whit'"):
        background_colour("whit")


def test_arrays_convert_in_bulk_as_they_do_one_by_one():
    rng = np.random.default_rng(0)
    gray = rng.integers(0, 256, (3, 8, 8), dtype=np.uint8)
    colour = rng.integers(0, 256, (3, 8, 8, 4), dtype=np.uint8)
    np.testing.assert_array_equal(convert_arrays(gray, 8, 1, WHITE), gray[:, None])
    np.testing.assert_array_equal(convert_arrays(gray, 8, 3, WHITE), np.repeat(gray[:, None], 3, 1))
    np.testing.assert_array_equal(convert_arrays(colour, 8, 4, WHITE), colour.transpose(0, 3, 1, 2))
    resized = convert_arrays(colour, 4, 3, RED)
    single = resize_and_crop(to_channels(Image.fromarray(colour[1]), 3, RED), 4)
    np.testing.assert_array_equal(resized[1], single)
