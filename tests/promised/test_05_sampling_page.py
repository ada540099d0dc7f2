"""Documentation page on sampling: old and new names, and scripts that work as described."""

from __future__ import annotations

import inspect
import json
import re
import runpy
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from diffusion_lab import DiffusionSampler, load_denoiser
from diffusion_lab.__main__ import main
from diffusion_lab.image_grids import to_image
from diffusion_lab.samplers import Sampler
from diffusion_lab.shapes import to_pixels
from diffusion_lab.training.sources import create_datamodule
from tests.docs.blocks import blocks
from tests.training.tiny import CLASSES, tiny_config, tiny_run

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/sampling-api.md").read_text(encoding="utf-8")
SCRIPTS = {block.adds: block.text for block in blocks() if block.page == "docs/sampling-api.md" and block.adds}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run with the classes low, middle and high."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    tiny_run(folder, {"training.epochs": 1})
    return folder


def script(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    """Run a script of the page in this process."""
    (folder / name).write_text(SCRIPTS[name], encoding="utf-8")
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    runpy.run_path(str(folder / name), run_name="__main__")


def test_the_page_exists_and_is_linked() -> None:
    assert PAGE.startswith("# From trainer sampling to DiffusionSampler\n")
    for title in (
        "Old call, new call",
        "Breaking changes",
        "Common patterns",
        "An inference-only script",
        "Enlarging a",
    ):
        assert f"\n## {title}" in PAGE
    assert "(docs/sampling-api.md)" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert "(sampling-api.md)" in (ROOT / "docs/migration-v1-to-v2.md").read_text(encoding="utf-8")


def test_images_of_one_class_from_a_checkpoint_alone(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script("infer.py", tmp_path, monkeypatch, run, 1, tmp_path / "ones.png")
    assert Image.open(tmp_path / "ones.png").size[0] > 4 * 8  # sixteen images of 8×8, enlarged
    imports = re.findall(r"^(?:import|from) (\w+)", SCRIPTS["infer.py"], re.MULTILINE)
    assert set(imports) == {"sys", "diffusion_lab"}


def test_a_data_set_is_enlarged_and_trained_on(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each image is in the folder of the class it was sampled for, and training gives it that label again."""
    enlarged = tmp_path / "enlarged"
    script("enlarge.py", tmp_path, monkeypatch, run, enlarged, 4)
    lines = [json.loads(line) for line in (enlarged / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["index"] for line in lines] == list(range(12))
    assert Counter(line["class_name"] for line in lines) == dict.fromkeys(CLASSES, 4)
    assert all(CLASSES[line["label"]] == line["class_name"] == Path(line["file"]).parent.name for line in lines)
    labels = [line["label"] for line in lines]
    expected = DiffusionSampler(load_denoiser(run)).sample(12, labels, 2.0, seed=0)
    for line, pixels in zip(lines, to_pixels(expected), strict=True):
        assert np.array_equal(np.asarray(Image.open(enlarged / line["file"])), np.asarray(to_image(pixels)))
    changes: dict[str, Any] = {
        "data.type": "image_folder",
        "data.paths.train": str(enlarged),
        "data.cache": "none",
        "training.validation.enabled": False,
        "training.epochs": 1,
    }
    data = create_datamodule(tiny_config(tmp_path / "next", changes), seed=0)
    assert Counter(int(label) for label in data.train.labels) == {0: 4, 1: 4, 2: 4}  # type: ignore[union-attr]
    assert set(data.class_names) == set(CLASSES)
    assert data.remarks.counts() == {"no_pictures": 1}  # the manifest
    assert tiny_run(tmp_path / "next", changes).train_images == 12


def test_the_defaults_on_the_page_are_correct() -> None:
    for way in ("sample", "sample_by_class", "sample_batch", "stream"):
        parameters = inspect.signature(getattr(DiffusionSampler, way)).parameters
        assert parameters["guidance_scale"].default == 0.0
        assert parameters["use_ema"].default is True
        assert {"show_progress", "sampler", "guidance", "seed", "noise"} <= parameters.keys()
    assert Sampler.__dataclass_fields__["steps"].default == 50


@pytest.mark.parametrize("way", ["", "sample", "sample_by_class", "sample_batch"])
def test_docstrings_have_examples_with_and_without_labels(way: str) -> None:
    """They are also run as doctests."""
    text = (getattr(DiffusionSampler, way) if way else DiffusionSampler).__doc__ or ""
    examples = "\n".join(re.findall(r"^\s*(?:>>>|\.\.\.) (.*)$", text, re.MULTILINE))
    assert "create_ddpm(**tiny, num_classes=10)" in examples
    assert "create_ddpm(**tiny)" in examples


@pytest.mark.parametrize("file", ["conf/standalone/generate.yaml", "conf/sample.yaml"])
def test_the_generate_files_document_their_requirements(file: str) -> None:
    text = (ROOT / file).read_text(encoding="utf-8")
    comments = " ".join(line.removeprefix("#").strip() for line in text.splitlines() if line.startswith("#"))
    for phrase in (
        "training.ema.enabled",
        "No data loader is used",
        "What the checkpoint must hold",
        "model_state_dict",
    ):
        assert phrase in comments


def test_the_generate_file_runs_without_training_images(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    file = ROOT / "conf/standalone/generate.yaml"
    main([str(file), f"generation.checkpoint={run}", "generation.sampling.num_samples=3"])
    assert "3 images in " in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "outputs/generated").glob("sample_*")) == [
        f"sample_000{index}.png" for index in range(3)
    ]
