"""Image grids: every pixel in its place."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diffusion_lab.image_grids import GAP, MIN_CELL, PAPER, class_grid, image_grid, image_pixels, to_image


def flat(*values: int, size: int = 60, channels: int = 3) -> torch.Tensor:
    """Images of one colour each, too large to be enlarged."""
    return torch.tensor(values, dtype=torch.uint8)[:, None, None, None].expand(-1, channels, size, size).contiguous()


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_one_image_keeps_its_pixels(channels, mode):
    pixels = torch.randint(0, 256, (channels, 5, 7), dtype=torch.uint8)
    image = to_image(pixels)
    assert (image.mode, image.size) == (mode, (7, 5))
    np.testing.assert_array_equal(np.array(image).reshape(5, 7, channels), pixels.permute(1, 2, 0).numpy())


def test_grid_is_filled_row_by_row_with_gaps():
    sheet = np.array(image_grid(flat(10, 20, 30, 40, 50), columns=3))
    cell = 60 + GAP
    assert sheet.shape == (2 * cell + GAP, 3 * cell + GAP, 3)
    middle = [[sheet[GAP + y * cell + 30, GAP + x * cell + 30, 0] for x in range(3)] for y in range(2)]
    assert middle == [[10, 20, 30], [40, 50, PAPER[0]]]
    for gap in (0, cell, 2 * cell):
        assert (sheet[gap : gap + GAP] == PAPER).all()
        assert (sheet[:, gap : gap + GAP] == PAPER).all()
    assert (sheet[GAP:cell, GAP:cell] == 10).all()  # the whole cell, not only its middle


@pytest.mark.parametrize(("count", "columns"), [(1, 1), (4, 2), (5, 2), (9, 3), (10, 3), (100, 10)])
def test_without_a_number_of_columns_the_grid_is_nearly_square(count, columns):
    width, height = image_grid(flat(*[0] * count)).size
    cell = 60 + GAP
    assert (width - GAP, height - GAP) == (columns * cell, -(-count // columns) * cell)


@pytest.mark.parametrize(("size", "scale"), [(8, 6), (40, 2), (47, 2), (48, 1), (64, 1)])
def test_small_images_are_enlarged_by_whole_pixels(size, scale):
    pixels = torch.randint(0, 256, (1, 1, size, size), dtype=torch.uint8)
    sheet = np.array(image_grid(pixels))[GAP:-GAP, GAP:-GAP, 0]
    assert sheet.shape[0] == size * scale >= MIN_CELL
    flat_sheet = np.array(image_grid(torch.full_like(pixels, 77)))[GAP:-GAP, GAP:-GAP, 0]
    assert (flat_sheet == 77).all()  # nothing but the image, up to its edges
    back = sheet.reshape(size, scale, size, scale).mean(axis=(1, 3))
    assert np.corrcoef(back.ravel(), pixels[0, 0].numpy().ravel())[0, 1] > 0.95


def test_transparent_pixels_show_the_paper():
    pixels = flat(100, channels=4).clone()
    pixels[:, 3, :30] = 0
    sheet = np.array(image_grid(pixels))
    assert (sheet[GAP + 10, GAP + 10] == PAPER).all()
    assert sheet[GAP + 45, GAP + 10].tolist() == [100 * 100 // 255 + 255 - 100] * 3  # alpha 100 over white


def test_each_class_has_a_row_regardless_of_order():
    sheet = np.array(class_grid(flat(10, 20, 30, 40), [2, 0, 2, 2], ("cat", "dog", "fox")))
    cell = 60 + GAP
    margin = sheet.shape[1] - GAP - 3 * cell
    middle = [[sheet[GAP + y * cell + 30, margin + GAP + x * cell + 30, 0] for x in range(3)] for y in range(2)]
    assert middle == [[20, 255, 255], [10, 30, 40]]
    for row in range(2):
        assert (sheet[GAP + row * cell : (row + 1) * cell, :margin] < 128).any()  # its name


def test_names_determine_the_margin_and_unnamed_classes_show_numbers():
    images = flat(10, 20)
    narrow, wide, numbered = (
        class_grid(images, torch.tensor([0, 1]), names).size[0]
        for names in (("a", "b"), ("a", "a much longer name"), ())
    )
    assert wide > narrow + 50
    assert abs(numbered - narrow) < 10


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pixels_survive_conversion_to_an_image(channels):
    pixels = torch.arange(channels * 4 * 5, dtype=torch.uint8).view(channels, 4, 5)
    assert torch.equal(image_pixels(to_image(pixels)), pixels)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: image_grid(torch.zeros(2, 3, 8, 8)),
            r"^pixels must be a uint8 .*got torch.float32 of shape \(2, 3, 8, 8\)",
        ),
        (lambda: image_grid(flat(1)[0]), r"^pixels must be .* of shape \(3, 60, 60\)"),
        (lambda: image_grid(flat(1)[:0]), r"^pixels must be .* of shape \(0, 3, 60, 60\)"),
        (lambda: image_grid([flat(1)]), "^pixels must be .* got list"),
        (lambda: image_grid(flat(1), columns=0), "^columns must be at least 1, got 0"),
        (lambda: class_grid(flat(1, 2), [0]), r"^labels must hold one class number for each of 2 images, got \[0\]"),
        (lambda: class_grid(flat(1, 2), [0, -1]), r"^labels must .*, got \[0, -1\]"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
