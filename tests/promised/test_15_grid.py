"""The grid of sample.py has one row per class with its name, and columns by guidance scale."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from diffusion_lab.config import get_default_config
from diffusion_lab.config.validate import parse_config
from diffusion_lab.generation.generate import Generation, generate
from diffusion_lab.image_grids import GAP, GROUP_GAP, ClassGrid, class_grid
from tests.training.tiny import CLASSES, tiny_run

CELL = 60 + GAP


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained model of the classes low, middle and high."""
    folder = tmp_path_factory.mktemp("run")
    tiny_run(folder, {"training.epochs": 1})
    return folder


def made(run_folder: Path, out: Path, nrow: int = 10, **sampling: Any) -> Generation:
    tree = {**get_default_config(), "mode": "generate", "sampler": {"type": "ddim", "steps": 2}}
    tree["compute"] = {"device": "cpu", "seed": 0}
    tree["output"]["base_dir"] = str(out)
    tree["generation"]["checkpoint"] = str(run_folder)
    tree["generation"]["sampling"] |= {"num_samples": 9, "guidance_scale": 1.0, **sampling}
    tree["generation"]["output"]["grid_nrow"] = nrow
    return generate(parse_config(tree), show_progress=False)


def lines_of(done: Generation) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (done.folder / "manifest.jsonl").read_text().splitlines()]


def images_of(done: Generation) -> torch.Tensor:
    pixels = [np.asarray(Image.open(done.folder / line["file"])) for line in lines_of(done)]
    return torch.tensor(np.stack(pixels))[:, None]


def grid_of(done: Generation) -> np.ndarray:
    assert done.grid is not None
    return np.asarray(Image.open(done.grid))


def test_one_row_per_class_with_its_name_as_in_training(run_folder: Path, tmp_path: Path) -> None:
    done = made(run_folder, tmp_path)
    labels = [line["label"] for line in lines_of(done)]
    assert labels == [0, 1, 2] * 3, "the images themselves come in turn"
    expected = class_grid(images_of(done), labels, CLASSES)
    np.testing.assert_array_equal(grid_of(done), np.asarray(expected))


def test_labels_are_in_the_requested_order(run_folder: Path, tmp_path: Path) -> None:
    done = made(run_folder, tmp_path, labels=["high", "low"], num_samples=5)
    labels = [line["label"] for line in lines_of(done)]
    images = images_of(done)
    swapped = class_grid(images, [{2: 0, 0: 1}[label] for label in labels], ("high", "low"))
    np.testing.assert_array_equal(grid_of(done), np.asarray(swapped))


def test_images_names_and_manifest_do_not_depend_on_the_grid(run_folder: Path, tmp_path: Path) -> None:
    def all_but_the_grid(done: Generation) -> dict[str, str]:
        files = [path for path in done.folder.iterdir() if path.name != "grid.png"]
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    one, other = (made(run_folder, tmp_path / str(nrow), nrow, guidance_scale=[1, 3]) for nrow in (2, 10))
    assert all_but_the_grid(one) == all_but_the_grid(other)
    assert grid_of(one).shape != grid_of(other).shape
    assert [line["guidance_scale"] for line in lines_of(one)] == [1.0] * 3 + [3.0] * 3 + [1.0] * 3


def test_another_layout_renews_the_grid_and_keeps_the_images(run_folder: Path, tmp_path: Path) -> None:
    done = made(run_folder, tmp_path)
    expected = grid_of(done)
    Image.new("RGB", (3, 3)).save(done.folder / "grid.png")
    again = made(run_folder, tmp_path)
    assert again.made == 0
    np.testing.assert_array_equal(grid_of(again), expected)
    wide = made(run_folder, tmp_path, nrow=2)
    assert wide.made == 0
    assert grid_of(wide).shape[0] > expected.shape[0]


def flat(count: int) -> torch.Tensor:
    """Return images of one colour each, which is their number."""
    return torch.arange(count, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 60, 60).contiguous()


def numbers(grid: ClassGrid, columns: int, count: int, above: int = 0, gaps: tuple[int, ...] = ()) -> list[list[int]]:
    """Return the image numbers at each position of a grid; 255 is background."""
    sheet = np.asarray(grid.draw(flat(count).__getitem__))
    left = sheet.shape[1] - GAP - columns * CELL - GROUP_GAP * len(gaps)
    places = [left + GAP + x * CELL + 30 + GROUP_GAP * sum(x >= gap for gap in gaps) for x in range(columns)]
    return [[int(sheet[y, x, 0]) for x in places] for y in range(above + GAP + 30, sheet.shape[0], CELL)]


def test_a_class_continues_in_the_next_row() -> None:
    grid = ClassGrid([0, 1] * 3, columns=2)
    assert numbers(grid, 2, 6) == [[0, 2], [4, 255], [1, 3], [5, 255]]


def test_scales_have_separate_columns() -> None:
    labels, scales = [0, 1, 0, 1, 0, 1], [1.0, 1.0, 2.5, 2.5, 1.0, 1.0]
    grid = ClassGrid(labels, columns=10, scales=scales)
    assert numbers(grid, 3, 6, above=19, gaps=(2,)) == [[0, 4, 2], [1, 5, 3]]
    sheet = np.asarray(grid.draw(flat(6).__getitem__))
    assert (sheet[:19] < 128).any(), "their captions"
    assert ClassGrid(labels, columns=10, scales=[3.0] * 6).draw(flat(6).__getitem__).height == 2 * CELL + GAP


def test_scales_of_one_class_or_more_than_fit_in_a_row_have_rows() -> None:
    assert numbers(ClassGrid([7] * 4, columns=10, scales=[1, 2, 1, 2]), 2, 4) == [[0, 2], [1, 3]]
    many = ClassGrid([0, 1, 0, 1, 0, 1], columns=2, scales=[1, 1, 2, 2, 3, 3])
    assert numbers(many, 1, 6) == [[0], [2], [4], [1], [3], [5]]


def test_many_short_rows_are_side_by_side() -> None:
    grid = ClassGrid(list(range(100)), columns=10)
    assert grid.indices == list(range(100))
    width, height = grid.draw(flat(100).__getitem__).size
    assert height == 20 * CELL + GAP
    assert 5 * CELL < width < 10 * CELL
    assert ClassGrid(list(range(100)), columns=1, most_rows=30).indices == list(range(30))


def test_long_names_are_truncated_and_line_breaks_removed() -> None:
    wide, narrow = (
        ClassGrid([0, 1], names, 10).draw(flat(2).__getitem__) for names in (("x" * 500, "b"), ("a\nb", "b"))
    )
    assert wide.width < 200 + CELL
    assert wide.height == narrow.height == 2 * CELL + GAP
