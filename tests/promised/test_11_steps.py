"""Default sampling steps never exceed those of the noise process; explicitly set steps that do are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from diffusion_lab import DiffusionSampler, load_denoiser
from diffusion_lab.__main__ import main
from diffusion_lab.config import get_default_config
from diffusion_lab.config.schema import TrainConfig
from diffusion_lab.config.validate import parse_as
from diffusion_lab.runtime.exit_codes import EXIT_CODE
from diffusion_lab.samplers import DDIMSampler
from diffusion_lab.training.fit import train
from tests.commands.conftest import run_here
from tests.training.tiny import tiny_tree

FEWER = "set sampler.steps=20 or fewer"


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder of `python train.py experiment=fast_debug`: its process has 20 steps, the default sampler 50."""
    folder = tmp_path_factory.mktemp("fast_debug") / "run"
    run_here("train", ["experiment=fast_debug", f"output.base_dir={folder}", "compute.device=cpu", "training.epochs=1"])
    return folder


@pytest.fixture
def generate_file(run_folder: Path, tmp_path: Path) -> Callable[..., Path]:
    def write(**sections: object) -> Path:
        tree = {**get_default_config(), "mode": "generate", **sections}
        tree["compute"] = {"device": "cpu", "seed": 0}
        tree["output"]["base_dir"] = str(tmp_path / "out")
        tree["generation"]["checkpoint"] = str(run_folder)
        tree["generation"]["sampling"]["num_samples"] = 10
        path = tmp_path / "generate.yaml"
        path.write_text(yaml.safe_dump(tree))
        return path

    return write


def steps_in(folder: Path) -> set[int]:
    (manifest,) = folder.rglob("manifest.jsonl")
    return {json.loads(line)["steps"] for line in manifest.read_text().splitlines()}


@pytest.mark.parametrize("choice", [(), ("sampler=best",)])
def test_sample_py_works_with_the_checkpoint_of_fast_debug(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], choice: tuple[str, ...]
) -> None:
    run_here("sample", [f"ckpt={run_folder}", "num_samples=10", "device=cpu", f"output.base_dir={tmp_path}", *choice])
    assert steps_in(tmp_path) == {20}
    assert "sampler.steps is 20: the noise process of the checkpoint has no more." in capsys.readouterr().err


@pytest.mark.parametrize("typed", [(), ("sampler.type=heun",), ("sampler.eta=0.5",)])
def test_a_generate_file_without_sampler_adapts(
    generate_file: Callable[..., Path], tmp_path: Path, typed: tuple[str, ...]
) -> None:
    main([str(generate_file()), *typed])
    assert steps_in(tmp_path / "out") == {20}


@pytest.mark.parametrize(
    ("sections", "typed"), [({"sampler": {"type": "ddim", "steps": 50}}, ()), ({}, ("sampler.steps=50",))]
)
def test_too_many_steps_are_refused_with_the_key_to_set(
    generate_file: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    sections: dict[str, object],
    typed: tuple[str, ...],
) -> None:
    with pytest.raises(SystemExit) as caught:
        main([str(generate_file(**sections)), *typed])
    assert caught.value.code == EXIT_CODE
    printed = capsys.readouterr().err
    assert "sampler.steps must be at most model.diffusion.num_timesteps, 20, got 50" in printed
    assert FEWER in printed
    assert not (tmp_path / "out").exists()
    main([str(generate_file(**sections)), "sampler.steps=20"])
    assert steps_in(tmp_path / "out") == {20}


def test_in_python(run_folder: Path) -> None:
    sampler = DiffusionSampler(load_denoiser(run_folder))
    images = sampler.sample(2, class_labels=[3, 7], seed=0)
    expected = sampler.sample(2, class_labels=[3, 7], seed=0, sampler=DDIMSampler(steps=20))
    assert images.equal(expected)
    with pytest.raises(ValueError, match=FEWER):
        sampler.sample(2, sampler=DDIMSampler(steps=50))


def test_the_sample_images_of_training_adapt(tmp_path: Path) -> None:
    tree = tiny_tree(tmp_path, {"training.epochs": 1, "training.visualization.enabled": True})
    del tree["sampler"]
    config = parse_as(TrainConfig, tree, [])
    train(config, Console(quiet=True))
    assert (tmp_path / "samples/epoch_0001.png").is_file()
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["sampler"]["steps"] == 20


def test_too_many_steps_in_a_recipe_are_refused_with_the_key_to_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run_here("train", ["experiment=fast_debug", "model.diffusion.num_timesteps=3", f"output.base_dir={tmp_path}/x"])
    assert "set sampler.steps=3 or fewer" in capsys.readouterr().err
