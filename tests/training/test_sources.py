"""Images of a run with each `data.cache`, also if no cache can be written."""

from __future__ import annotations

import json
import pwd
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffusion_lab.checkpoint import find_checkpoint, load_denoiser, read_checkpoint
from diffusion_lab.config.schema import TrainConfig
from diffusion_lab.create import create_denoiser
from diffusion_lab.data.decoded import DecodedSource
from diffusion_lab.data.image_folder import ImageFolderSource
from diffusion_lab.data.skipped_images import DataWarning
from diffusion_lab.data.source import Subset
from diffusion_lab.faults import ConfigWarning
from diffusion_lab.run_images.classes import with_counted_classes
from diffusion_lab.training.sources import create_datamodule
from tests.training.tiny import resume_of, saved, tiny_config, tiny_run


@pytest.fixture
def images(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for number in range(24):
        file = tmp_path / "images" / "abc"[number % 3] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (9, 12), dtype=np.uint8)).save(file)
    return tmp_path / "images"


def settings(images: Path, **changes: object) -> TrainConfig:
    """Return settings of a run on a folder, with its cache next to it."""
    values = {"data.type": "image_folder", "data.paths.train": str(images), "data.cache": "memory", **changes}
    return tiny_config(images.parent, values)


def source(images: Path, **changes: object) -> ImageFolderSource | DecodedSource:
    """Return the images of a run before the split."""
    values = {"data.type": "image_folder", "data.paths.train": str(images), **changes}
    split = create_datamodule(tiny_config(images.parent, values), seed=0).train
    assert isinstance(split, Subset)
    return split.source


@pytest.mark.parametrize(
    ("cache", "kind"), [("disk", DecodedSource), ("memory", DecodedSource), ("none", ImageFolderSource)]
)
def test_the_cache_is_that_of_the_settings(tmp_path, images, cache, kind, capsys):
    train = source(images, **{"data.cache": cache, "data.cache_dir": str(tmp_path / "caches")})
    assert type(train) is kind
    assert len(list((tmp_path / "caches").glob("*/*/pixels.bin"))) == (cache == "disk")
    output = capsys.readouterr().err
    assert ("decoding 24 images once" in output) == (cache == "disk")
    assert ("checking images" in output) == (cache == "none")


def test_the_cache_is_in_the_users_cache_folder_by_default(tmp_path, images, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    source(images)
    assert len(list((tmp_path / "user" / "diffusion_lab").glob("*/*/pixels.bin"))) == 1


def test_a_run_continues_without_a_cache_that_cannot_be_written(tmp_path, images, monkeypatch):
    (tmp_path / "user").write_text("a file, where a folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    with pytest.warns(ConfigWarning, match=r"data\.cache = disk cannot be written: .*user.*data\.cache_dir"):
        assert isinstance(source(images), ImageFolderSource)


def test_a_user_without_a_home_folder_trains_without_a_cache(images, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", lambda number: {}[number])
    with pytest.warns(ConfigWarning, match=r"cannot be written: this user has no home folder.*data\.cache_dir"):
        assert isinstance(source(images), ImageFolderSource)


def test_a_custom_folder_that_cannot_be_used_is_an_error(tmp_path, images):
    (tmp_path / "caches").write_text("a file, where a folder should be")
    with pytest.raises(ValueError, match=r"data\.cache_dir cannot be used, got .*caches"):
        source(images, **{"data.cache_dir": str(tmp_path / "caches")})


def test_classes_are_counted_and_the_checkpoint_holds_their_number(tmp_path, images):
    own = {"data.type": "image_folder", "data.paths.train": str(images), "data.cache": "memory"}
    counted = {**own, "model.conditioning.num_classes": "auto"}
    tiny_run(tmp_path / "run", {**counted, "training.epochs": 1})
    model = read_checkpoint(find_checkpoint(tmp_path / "run", "last")).model
    assert model is not None
    assert model.conditioning.num_classes == 3
    denoiser = load_denoiser(tmp_path / "run")
    assert (denoiser.num_classes, denoiser.class_names) == (3, ("a", "b", "c"))
    # auto and the number are equivalent for a resumed run
    for name, changes in (("auto", counted), ("number", own)):
        shutil.copytree(tmp_path / "run", tmp_path / name)
        summary = tiny_run(tmp_path / name, {**changes, "training.epochs": 2, **resume_of(tmp_path / name)})
        assert summary is not None
        assert summary.epochs == 2
    assert_same_weights(tmp_path / "auto", tmp_path / "number")


def assert_same_weights(one: Path, other: Path) -> None:
    left, right = (saved(find_checkpoint(run, "last"))["state_dict"] for run in (one, other))
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_counted_classes_give_the_same_warnings_as_typed_ones(tmp_path, images):
    changes = {"model.conditioning.num_classes": "auto", "training.visualization.enabled": True}
    config = settings(images, **changes, **{"training.visualization.num_samples": 2})
    with pytest.warns(ConfigWarning, match=r"num_samples = 2 leaves 1 of 3 classes without an image"):
        counted = with_counted_classes(config, ("a", "b", "c"))
    assert counted.model.conditioning.classes == 3


def test_a_model_is_not_created_before_its_classes_are_counted(images):
    config = settings(images, **{"model.conditioning.num_classes": "auto"})
    with pytest.raises(ValueError, match=r"num_classes must be a number here, got 'auto'"):
        create_denoiser(config.model, ())


@pytest.mark.parametrize("workers", [0, 2])
def test_images_damaged_during_training_are_in_the_log_and_the_summary(tmp_path, images, monkeypatch, workers):
    """Each is listed once, regardless of the process that found it."""
    check, damaged = ImageFolderSource.check, []

    def checking_before_the_damage(source, *arguments):
        check(source, *arguments)
        for number in (3, 7):
            damaged.append(source.paths[number])
            damaged[-1].write_bytes(b"no picture")

    monkeypatch.setattr(ImageFolderSource, "check", checking_before_the_damage)
    changes = {"data.cache": "none", "data.loading.num_workers": workers, "training.epochs": 3}
    changes |= {"data.type": "image_folder", "data.paths.train": str(images), "training.validation.enabled": True}
    with pytest.warns(DataWarning) as caught:
        summary = tiny_run(tmp_path / "run", changes)
    messages = "\n".join(str(warning.message) for warning in caught if warning.category is DataWarning)
    assert summary.left_out == {"damaged": 2}
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["left_out"] == {"damaged": 2}
    log = (tmp_path / "run" / "logs" / "run.log").read_text()
    for file in damaged:
        assert (messages.count(f"{file}: Unid"), log.count(f"{file}: Unid")) == (1, 1)


UNCONDITIONAL = {"model.conditioning.type": None, "model.conditioning.num_classes": None}


@pytest.mark.parametrize("cache", ["memory", "disk", "none"])
def test_warning_about_unused_class_folders_says_how_to_use_them(images, cache):
    values = {**UNCONDITIONAL, "data.cache": cache, "data.cache_dir": str(images.parent / "caches")}
    with pytest.warns(ConfigWarning, match=r"has 3 class folders \(a, b, c\), .*unconditional.*conditioning=class"):
        data = create_datamodule(settings(images, **values), seed=0)
    assert "3 class folders" in " ".join(data.remarks.lines())


@pytest.mark.parametrize("changes", [{}, {**UNCONDITIONAL, "flat": True}])
def test_no_warning_if_labels_are_used_or_missing(images, changes):
    changes = dict(changes)
    folder = images / "a" if changes.pop("flat", False) else images
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        create_datamodule(settings(images, **{**changes, "data.paths.train": str(folder)}), seed=0)


def test_warning_about_class_folders_inside_a_single_folder(images):
    images.rename(images.parent / "a")
    images.mkdir()
    (images.parent / "a").rename(images / "a")
    with pytest.warns(ConfigWarning, match=r"3 folders \(a, b, c\) inside its only subfolder.*train '.*/a'"):
        create_datamodule(settings(images, **UNCONDITIONAL), seed=0)


@pytest.mark.parametrize("cache", ["memory", "disk", "none"])
@pytest.mark.parametrize(
    ("train", "val", "message"),
    [
        ("a", "a", r"data\.paths\.val '.*a' is data\.paths\.train '.*a': 8 of 8"),
        ("a", "", r"data\.paths\.val '.*' holds data\.paths\.train '.*a': 8 of 24"),
        ("", "val", r"data\.paths\.val '.*val' lies in data\.paths\.train '.*': 8 of 8"),
        ("a", "link", r"data\.paths\.val '.*link' is data\.paths\.train '.*a': 8 of 8"),
        ("a", "copies", r"^2 of 3 validation images are training images as well"),
    ],
)
def test_validation_images_that_are_training_images_are_counted(images, cache, train, val, message):
    (images.parent / "link").symlink_to(images / "a")
    (images.parent / "copies").mkdir()
    for name, source in (("one.png", "a/0.png"), ("two.png", "a/3.png"), ("other.png", "b/1.png")):
        shutil.copy(images / source, images.parent / "copies" / name)
    if val == "val":
        shutil.copytree(images / "a", images / "val" / "a")
    place = images.parent if val in ("link", "copies") else images
    paths = {"data.paths.train": str(images / train), "data.paths.val": str(place / val)}
    values = {**UNCONDITIONAL, **paths, "data.cache": cache, "data.cache_dir": str(images.parent / "caches")}
    for _ in range(2):  # decoded, and from the cache
        with pytest.warns(ConfigWarning, match=message):
            create_datamodule(settings(images, **values), seed=0)
