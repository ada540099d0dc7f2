"""`python -m diffusion_lab.features`: what was computed, where it is kept, and that it is there the second time."""

from __future__ import annotations

import re

import numpy as np
import pytest
from PIL import Image

from diffusion_lab.checkpoint import read_checkpoint
from diffusion_lab.evaluation.run_data import images_of_run
from diffusion_lab.features import NAMES, cached_features, create_extractor, find_or_compute, open_image_set
from diffusion_lab.features.__main__ import main
from diffusion_lab.features.published import PUBLISHED
from tests.evaluation.untrained import OWN_IMAGES, untrained

RNG = np.random.default_rng(0)


@pytest.fixture
def folder(tmp_path):
    """Twenty pictures of 12×8 pixels."""
    (tmp_path / "my pictures").mkdir()
    for index in range(20):
        image = Image.fromarray(RNG.integers(0, 256, (8, 12, 3), dtype=np.uint8))
        image.save(tmp_path / "my pictures" / f"{index}.png")
    return tmp_path / "my pictures"


def said(capsys, *arguments):
    main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return captured.out.strip(), captured.err


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    assert caught.value.code
    return capsys.readouterr().err.splitlines()[0]


def test_features_are_written_once_and_evaluation_finds_them(folder, tmp_path, capsys, monkeypatch):
    given = ["compute", folder, "--image-size", "8", "--cache-dir", tmp_path / "cache", "--device", "cpu"]
    out, _ = said(capsys, *given)
    found = re.fullmatch(r"pixels of 20 images: 192 features each, written to (.*): every later evaluation .*", out)
    assert found
    assert (tmp_path / "cache" / "features") in map(type(tmp_path), [found[1].rsplit("/", 2)[0]])
    monkeypatch.setattr("diffusion_lab.features.cache.extract", None)
    out, err = said(capsys, *given)
    assert out == f"pixels of 20 images: 192 features each, already in {found[1]}: nothing is computed"
    assert not err
    source = open_image_set(folder, 8, cache_dir=tmp_path / "cache")
    assert len(cached_features(create_extractor("auto", source=source), source, tmp_path / "cache")) == 20


def test_too_few_images_for_an_evaluation_are_told(folder, tmp_path, capsys):
    given = ["compute", folder, "--image-size", "8", "--cache-dir", tmp_path / "cache", "--device", "cpu"]
    assert "later evaluation" in said(capsys, *given)[0]
    next(folder.glob("*.png")).unlink()
    out, err = said(capsys, *given)
    assert "later evaluation" not in out
    assert f"DATA = {folder} holds 19 images, and an evaluation needs at least 20 real images" in err


def test_channels_and_features_are_those_asked_for(folder, tmp_path, capsys):
    given = ["compute", folder, "--image-size", "8", "--cache-dir", tmp_path / "cache", "--features"]
    out, _ = said(capsys, *given, "pixels", "--channels", "1")
    assert "64 features each" in out
    out, _ = said(capsys, *given, "tests.features.own_features.Brightness")
    assert out.startswith("brightness of 20 images: 1 feature each")


def test_mistakes_are_told_in_one_line_with_the_option_to_give(folder, tmp_path, capsys):
    assert re.match(r"Error: DATA holds images .* set --image-size to", refused(capsys, "compute", folder))
    assert "DATA must be a folder of images" in refused(capsys, "compute", tmp_path / "nowhere")
    assert "features must be one of" in refused(capsys, "compute", "digits", "--features", "effi")
    (tmp_path / "file").touch()
    assert "--cache-dir cannot be used" in refused(capsys, "compute", "digits", "--cache-dir", tmp_path / "file")
    assert "device must be" in refused(capsys, "compute", "digits", "--device", "cuda:77")
    with pytest.raises(SystemExit):
        main(["compute", "digits", "--image-size", "0"])
    assert "must be at least 1, got 0" in capsys.readouterr().err


def test_the_list_tells_all_features_and_the_files_that_they_need(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    out, _ = said(capsys, "list")
    for name in NAMES:
        assert re.search(rf"^{name} ", out, re.MULTILINE)
    for files in PUBLISHED.values():
        for file in files:
            assert f"{file.name}, not here" in out
            assert file.url in out
            assert f"SHA-256 {file.sha256}" in out
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints" / PUBLISHED["inception"][0].name).touch()
    assert f"{PUBLISHED['inception'][0].name}, on this machine" in said(capsys, "list")[0]


def test_images_with_an_alpha_channel_are_those_that_evaluation_looks_for(tmp_path, capsys):
    run = untrained(tmp_path / "run.ckpt", {"model.architecture.in_channels": 4})
    out, _ = said(capsys, "compute", run, "--features", "pixels", "--trust", OWN_IMAGES, "--cache-dir", tmp_path)
    assert out.startswith("pixels of 45 images in 3 classes: 192 features each, written to")
    real = images_of_run(read_checkpoint(run), "train", [OWN_IMAGES], {})
    assert find_or_compute(create_extractor("pixels", source=real.reference), real.reference, tmp_path).was_there
