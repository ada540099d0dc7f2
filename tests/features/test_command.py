"""`python -m diffusion_lab.features`: computing, caching and listing features."""

from __future__ import annotations

import re

import numpy as np
import pytest
from PIL import Image

from diffusion_lab.checkpoint import read_checkpoint
from diffusion_lab.commands.features import main
from diffusion_lab.evaluation.run_data import images_of_run
from diffusion_lab.features import NAMES, cached_features, create_extractor, find_or_compute, open_image_set
from diffusion_lab.features.published import PUBLISHED
from tests.evaluation.untrained import OWN_IMAGES, untrained

RNG = np.random.default_rng(0)


@pytest.fixture
def folder(tmp_path):
    """Folder of twenty images of 12×8 pixels."""
    (tmp_path / "my images").mkdir()
    for index in range(20):
        image = Image.fromarray(RNG.integers(0, 256, (8, 12, 3), dtype=np.uint8))
        image.save(tmp_path / "my images" / f"{index}.png")
    return tmp_path / "my images"


def run_main(capsys, *arguments):
    main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return captured.out.strip(), captured.err


def error_of(capsys, *arguments):
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    assert caught.value.code
    return capsys.readouterr().err.splitlines()[0]


def test_features_are_computed_once_and_found_by_evaluation(folder, tmp_path, capsys, monkeypatch):
    arguments = ["compute", folder, "--image-size", "8", "--cache-dir", tmp_path / "cache", "--device", "cpu"]
    out, _ = run_main(capsys, *arguments)
    match = re.fullmatch(r"pixels of 20 images: 192 features each, written to (.*): every later evaluation .*", out)
    assert match
    assert (tmp_path / "cache" / "features") in map(type(tmp_path), [match[1].rsplit("/", 2)[0]])
    monkeypatch.setattr("diffusion_lab.features.cache.extract", None)
    out, err = run_main(capsys, *arguments)
    assert out == f"pixels of 20 images: 192 features each, already in {match[1]}: nothing is computed"
    assert not err
    source = open_image_set(folder, 8, cache_dir=tmp_path / "cache")
    assert len(cached_features(create_extractor("auto", source=source), source, tmp_path / "cache")) == 20


def test_too_few_images_for_an_evaluation_give_a_warning(folder, tmp_path, capsys):
    arguments = ["compute", folder, "--image-size", "8", "--cache-dir", tmp_path / "cache", "--device", "cpu"]
    assert "later evaluation" in run_main(capsys, *arguments)[0]
    next(folder.glob("*.png")).unlink()
    out, err = run_main(capsys, *arguments)
    assert "later evaluation" not in out
    assert f"DATA = {folder} holds 19 images, and an evaluation needs at least 20 real images" in err


def test_channels_and_features_can_be_chosen(folder, tmp_path, capsys):
    arguments = ["compute", folder, "--image-size", "8", "--cache-dir", tmp_path / "cache", "--features"]
    out, _ = run_main(capsys, *arguments, "pixels", "--channels", "1")
    assert "64 features each" in out
    out, _ = run_main(capsys, *arguments, "tests.features.own_features.Brightness")
    assert out.startswith("brightness of 20 images: 1 feature each")


def test_errors_are_one_line_that_names_the_option(folder, tmp_path, capsys):
    assert re.match(r"Error: DATA holds images .* set --image-size to", error_of(capsys, "compute", folder))
    assert "DATA must be a folder of images" in error_of(capsys, "compute", tmp_path / "nowhere")
    assert "features must be one of" in error_of(capsys, "compute", "digits", "--features", "effi")
    (tmp_path / "file").touch()
    assert "--cache-dir cannot be used" in error_of(capsys, "compute", "digits", "--cache-dir", tmp_path / "file")
    assert "device must be" in error_of(capsys, "compute", "digits", "--device", "cuda:77")
    with pytest.raises(SystemExit):
        main(["compute", "digits", "--image-size", "0"])
    assert "must be at least 1, got 0" in capsys.readouterr().err


def test_the_list_has_all_features_and_their_weights_files(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    out, _ = run_main(capsys, "list")
    for name in NAMES:
        assert re.search(rf"^{name} ", out, re.MULTILINE)
    for files in PUBLISHED.values():
        for file in files:
            assert f"{file.name}, not here" in out
            assert file.url in out
            assert f"SHA-256 {file.sha256}" in out
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints" / PUBLISHED["inception"][0].name).touch()
    assert f"{PUBLISHED['inception'][0].name}, on this machine" in run_main(capsys, "list")[0]


def test_evaluation_finds_the_features_of_images_with_an_alpha_channel(tmp_path, capsys):
    run = untrained(tmp_path / "run.ckpt", {"model.architecture.in_channels": 4})
    out, _ = run_main(capsys, "compute", run, "--features", "pixels", "--trust", OWN_IMAGES, "--cache-dir", tmp_path)
    assert out.startswith("pixels of 45 images in 3 classes: 192 features each, written to")
    real = images_of_run(read_checkpoint(run), "train", [OWN_IMAGES], {})
    assert find_or_compute(create_extractor("pixels", source=real.reference), real.reference, tmp_path).was_cached
