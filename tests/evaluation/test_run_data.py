"""Data of a run is read again by its checkpoint, and refused if it has changed."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffusion_lab.checkpoint import Checkpoint, read_checkpoint
from diffusion_lab.config import get_default_config, parse_config
from diffusion_lab.data.source import ArraySource
from diffusion_lab.evaluation.proportional_labels import MAX_PERIOD, proportional_labels
from diffusion_lab.evaluation.run_data import images_of_folder, images_of_run
from diffusion_lab.features.opaque import without_transparency
from diffusion_lab.features.run_images import run_sources
from diffusion_lab.generation.open_folder import MAX_NOTE_BYTES
from diffusion_lab.runs.identity import data_fingerprint
from tests.evaluation.untrained import OWN_IMAGES, untrained


@pytest.fixture
def flowers(tmp_path: Path) -> Path:
    """Folder with images of two classes."""
    rng = np.random.default_rng(0)
    for name in ("rose", "tulip"):
        for number in range(6):
            file = tmp_path / "flowers" / name / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(file)
    return tmp_path / "flowers"


@pytest.fixture
def checkpoint(flowers: Path) -> Checkpoint:
    """Checkpoint of a run on these images, with the settings and the fingerprint of its data."""
    tree = get_default_config()
    tree["data"]["paths"]["train"] = str(flowers)
    tree["model"]["architecture"]["image_size"] = 8
    config = parse_config(tree)
    found = Checkpoint(Path("best.ckpt"), {}, {}, config.model, (), 3, config.model_dump(mode="json"))
    return replace(found, metadata={"data_fingerprint": data_fingerprint(run_sources(found).train)})


def test_moved_images_are_read_from_their_current_folder(checkpoint: Checkpoint, flowers: Path) -> None:
    moved = flowers.with_name("garden")
    flowers.rename(moved)
    with pytest.raises(
        ValueError, match=r"cannot be read: data\.paths\.train must be .*data\.paths\.train=DIR.*reference=DIR"
    ):
        images_of_run(checkpoint, "train", (), {})
    real = images_of_run(checkpoint, "train", (), {"train": moved})
    assert (len(real.reference), real.held_out is not None, real.name) == (10, True, "training images")
    assert real.train is real.reference
    validated = images_of_run(checkpoint, "val", (), {"train": moved})
    assert (len(validated.reference), len(validated.train)) == (2, 10)


def test_changed_images_are_refused(checkpoint: Checkpoint, flowers: Path) -> None:
    shutil.copy(flowers / "rose/0.png", flowers / "rose/9.png")
    with pytest.raises(ValueError, match=r"the images are not those that best\.ckpt was trained on"):
        images_of_run(checkpoint, "train", (), {})


def test_transparent_images_are_compared_over_white() -> None:
    pixels = np.zeros((2, 4, 8, 8), np.uint8)
    pixels[1, 3] = 255
    seen = without_transparency(ArraySource(pixels, [0, 0], ()))
    assert seen.channels == 3
    assert seen.load(0, None).min() == 255
    assert seen.load(1, None).max() == 0


def test_every_prefix_of_labels_has_the_frequencies_of_the_real_images() -> None:
    labels = np.repeat([0, 1, 2], [60, 30, 10])
    source = ArraySource(np.zeros((100, 1, 2, 2), np.uint8), labels, ("a", "b", "c"))
    drawn = proportional_labels(source, 3)
    assert drawn is not None
    assert len(drawn) == 10  # 6, 3 and 1
    for count in (10, 50, 200, 1000):
        shares = np.bincount(np.resize(drawn, count), minlength=3) / count
        np.testing.assert_allclose(shares, [0.6, 0.3, 0.1], atol=1 / count)


def test_rare_classes_have_their_frequency_in_any_number_of_labels() -> None:
    counts = np.array([2900, *range(1, 60)])
    source = ArraySource(
        np.zeros((counts.sum(), 1, 1, 1), np.uint8), np.repeat(np.arange(60), counts), tuple(map(str, range(60)))
    )
    drawn = proportional_labels(source, 60)
    assert drawn is not None
    np.testing.assert_array_equal(np.bincount(drawn), counts)
    for count in (1000, 3000, 10 * counts.sum()):
        excess = np.bincount(np.resize(drawn, count), minlength=60) - count * counts / counts.sum()
        assert excess.max() < 1


def test_the_maximum_number_of_labels_fits_into_a_note() -> None:
    note = {"order": {"label": [99_999] * MAX_PERIOD}}
    assert len(json.dumps(note, indent=2)) < 0.8 * MAX_NOTE_BYTES


def test_equal_frequencies_and_other_classes_need_no_labels() -> None:
    source = ArraySource(np.zeros((6, 1, 2, 2), np.uint8), [0, 1, 2, 0, 1, 2], ("a", "b", "c"))
    assert proportional_labels(source, 3) is None
    assert proportional_labels(source, 4) is None


def test_a_reference_run_with_an_alpha_channel_is_composited_over_white(tmp_path: Path) -> None:
    run = untrained(tmp_path / "run.ckpt", {"model.architecture.in_channels": 4})
    trusted = [OWN_IMAGES]
    real = images_of_folder(run, run, None, None, tmp_path, trusted)
    for images in (real.reference, real.held_out):
        assert images is not None
        assert (images.channels, images.load(0, None).shape) == (3, (3, 8, 8))
    of_run = images_of_run(read_checkpoint(run), "train", trusted, {})
    assert data_fingerprint(real.reference) == data_fingerprint(of_run.reference)
