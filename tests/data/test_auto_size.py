"""``auto`` for image size and channels: measured from the images, rounded to what the network can halve."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from diffusion_lab.config import get_default_config, validate_config, validate_config_consistency
from diffusion_lab.config.schema import TrainConfig
from diffusion_lab.config.validate import parse_as, parse_config
from diffusion_lab.data.headers import sample_headers
from diffusion_lab.data.listing import list_images


def tree_of(folder: Path, **architecture: Any) -> dict[str, Any]:
    tree = get_default_config()
    tree["data"]["paths"]["train"] = str(folder)
    tree["model"]["architecture"] |= {"image_size": "auto", "in_channels": "auto", **architecture}
    return tree


def measured(folder: Path, **architecture: Any) -> tuple[int, int]:
    config = parse_config(tree_of(folder, **architecture))
    assert config.model is not None
    return config.model.architecture.image_size, config.model.architecture.in_channels


def save(folder: Path, *pictures: tuple[str, tuple[int, int]]) -> Path:
    for number, (mode, size) in enumerate(pictures):
        folder.mkdir(parents=True, exist_ok=True)
        Image.new(mode, size).save(folder / f"{number}.png")
    return folder


@pytest.mark.parametrize(
    ("pictures", "expected"),
    [
        ([("L", (28, 28))] * 3, (28, 1)),
        ([("RGB", (32, 48)), ("RGB", (48, 32))], (32, 3)),  # the short side
        ([("L", (40, 40)), ("P", (40, 40))], (40, 3)),  # one coloured picture is enough
        ([("LA", (40, 40))], (40, 3)),  # transparency is laid onto a background, which may have a colour
        ([("I;16", (30, 30)), ("1", (30, 30))], (28, 1)),  # three stages need a multiple of 4
        ([("RGB", (500, 400))], (64, 3)),
        ([("L", (3, 3))], (4, 1)),
        ([("L", (16, 16)), ("L", (20, 20)), ("L", (60, 60))], (20, 1)),  # the median
    ],
)
def test_size_and_channels_are_measured(
    tmp_path: Path, pictures: list[tuple[str, tuple[int, int]]], expected: tuple[int, int]
) -> None:
    assert measured(save(tmp_path / "images", *pictures)) == expected


def test_class_folders_and_damaged_images(tmp_path: Path) -> None:
    save(tmp_path / "images/a", ("L", (20, 20)))
    save(tmp_path / "images/b", ("L", (20, 20)))
    (tmp_path / "images/b/broken.png").write_bytes(b"no picture")
    assert measured(tmp_path / "images") == (20, 1)


def test_patches_are_part_of_the_divisor(tmp_path: Path) -> None:
    assert measured(save(tmp_path / "images", ("L", (28, 28))), patch_size=2) == (24, 1)


@pytest.mark.parametrize(
    ("side", "patch"), [(8, 1), (16, 1), (20, 2), (28, 2), (32, 2), (64, 2), (30, 2), (18, 1), (7, 1)]
)
def test_automatic_patches_leave_what_two_stages_can_halve(side: int, patch: int, tmp_path: Path) -> None:
    tree = tree_of(
        save(tmp_path / "images", ("L", (side, side))),
        patch_size="auto",
        channel_multipliers=[1, 2],
        use_attention=[False, True],
    )
    architecture = parse_config(tree).model.architecture  # type: ignore[union-attr]
    assert architecture.patch_size == patch
    assert side - 3 <= architecture.image_size <= side


@pytest.mark.parametrize(("size", "patch"), [(128, 4), (256, 8), (34, 1), (36, 2), (132, 2)])
def test_automatic_patches_follow_a_typed_size(size: int, patch: int, tmp_path: Path) -> None:
    tree = tree_of(tmp_path, image_size=size, in_channels=3, patch_size="AUTO", channel_multipliers=[1, 2])
    tree["model"]["architecture"]["use_attention"] = [False, True]
    assert parse_config(tree).model.architecture.patch_size == patch  # type: ignore[union-attr]
    generating = tree | {"mode": "generate", "generation": {"checkpoint": str(tmp_path)}}
    assert parse_config(generating).model.architecture.patch_size == patch  # type: ignore[union-attr]


def test_automatic_patches_add_no_fault(tmp_path: Path) -> None:
    tree = tree_of(tmp_path, image_size=-4, in_channels=3, patch_size="auto")
    with pytest.raises(ValueError, match=r"1 setting is wrong:\n  model\.architecture\.image_size"):
        validate_config(tree)


def test_explicit_values_stay(tmp_path: Path) -> None:
    folder = save(tmp_path / "images", ("L", (28, 28)))
    assert measured(folder, image_size=32) == (32, 1)
    assert measured(folder, in_channels=3) == (28, 3)


def test_the_tree_is_not_modified(tmp_path: Path) -> None:
    tree = tree_of(save(tmp_path / "images", ("L", (28, 28))))
    validate_config(tree)
    validate_config_consistency(tree)
    assert tree["model"]["architecture"]["image_size"] == tree["model"]["architecture"]["in_channels"] == "auto"


@pytest.mark.parametrize("check", [validate_config, validate_config_consistency])
def test_other_data_types_need_a_number(check: Any, tmp_path: Path) -> None:
    tree = tree_of(tmp_path)
    tree["data"]["type"], tree["data"]["paths"]["train"] = "digits", None
    with pytest.raises(ValueError, match=r'architecture\.image_size = "auto": auto requires data\.type image_folder'):
        check(tree)


def test_a_missing_folder_is_a_fault_at_the_start_of_a_run(tmp_path: Path) -> None:
    tree = tree_of(tmp_path / "missing")
    validate_config(tree)
    with pytest.raises(ValueError, match=r"1 setting is wrong:\n  data\.paths\.train .* must be an existing folder"):
        parse_as(TrainConfig, tree, starts=True)


def test_other_faults_are_still_found(tmp_path: Path) -> None:
    tree = tree_of(save(tmp_path / "images", ("L", (28, 28))), channel_multipliers="many")
    with pytest.raises(ValueError, match=r"1 setting is wrong:\n  model\.architecture\.channel_multipliers"):
        validate_config(tree)


def test_a_coloured_image_is_found_among_many_gray_ones(tmp_path: Path) -> None:
    """The size comes from a sample of them; one picture that it leaves out must not lose its colour."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(300):
        Image.new("RGB" if number == 6 else "L", (4, 4)).save(folder / f"{number:03}.bmp")
    assert all(header.gray for header in sample_headers(list_images(folder).images))
    assert measured(folder) == (4, 3)
