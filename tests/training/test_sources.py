"""The images of a run as `data.cache` says, and what becomes of a run where no cache can be written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffusion_lab.config.faults import ConfigWarning
from diffusion_lab.data.decoded import DecodedSource
from diffusion_lab.data.image_folder import ImageFolderSource
from diffusion_lab.data.source import Subset
from diffusion_lab.training.sources import create_datamodule
from tests.training.tiny import tiny_config


@pytest.fixture
def images(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for number in range(24):
        file = tmp_path / "images" / "abc"[number % 3] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (9, 12), dtype=np.uint8)).save(file)
    return tmp_path / "images"


def source(images: Path, **changes: object) -> ImageFolderSource | DecodedSource:
    """The images of a run, before the split."""
    given = {"data.type": "image_folder", "data.paths.train": str(images), **changes}
    split = create_datamodule(tiny_config(images.parent, given), seed=0).train
    assert isinstance(split, Subset)
    return split.source


@pytest.mark.parametrize(
    ("cache", "kind"), [("disk", DecodedSource), ("memory", DecodedSource), ("none", ImageFolderSource)]
)
def test_the_cache_is_the_one_asked_for(tmp_path, images, cache, kind, capsys):
    found = source(images, **{"data.cache": cache, "data.cache_dir": str(tmp_path / "caches")})
    assert type(found) is kind
    assert len(list((tmp_path / "caches").glob("*/*/pixels.bin"))) == (cache == "disk")
    said = capsys.readouterr().err
    assert ("decoding 24 images once" in said) == (cache == "disk")
    assert ("checking images" in said) == (cache == "none")


def test_by_default_it_lies_in_the_users_folder_for_caches(tmp_path, images, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    source(images)
    assert len(list((tmp_path / "user" / "diffusion_lab").glob("*/*/pixels.bin"))) == 1


def test_where_that_cannot_be_written_a_run_goes_on_without(tmp_path, images, monkeypatch):
    (tmp_path / "user").write_text("a file, where a folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    with pytest.warns(ConfigWarning, match=r"data\.cache = disk cannot be written in .*user.*data\.cache_dir"):
        assert isinstance(source(images), ImageFolderSource)


def test_a_folder_of_ones_own_that_cannot_be_used_is_an_error(tmp_path, images):
    (tmp_path / "caches").write_text("a file, where a folder should be")
    with pytest.raises(ValueError, match=r"data\.cache_dir cannot be used, got .*caches"):
        source(images, **{"data.cache_dir": str(tmp_path / "caches")})
