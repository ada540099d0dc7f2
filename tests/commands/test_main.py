"""``python -m diffusion_lab FILE.yaml``, and three ways to start the same run."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from diffusion_lab.checkpoint import find_checkpoint
from tests.commands.conftest import ROOT, command, pasted, printed_commands, succeeds

pytestmark = pytest.mark.integration

FIXTURES = ROOT / "tests" / "fixtures" / "configs" / "diffusion"
STANDALONE = ROOT / "conf" / "standalone"

SMALL_V1 = {
    "experiment": "three_ways",
    "mode": "train",
    "device": "cpu",
    "seed": 7,
    "model": {
        "image_size": 8,
        "in_channels": 1,
        "model_channels": 8,
        "channel_multipliers": [1, 2],
        "use_attention": [False, True],
        "num_timesteps": 20,
        "beta_schedule": "linear",
        "num_classes": 2,
    },
    "data": {"batch_size": 4, "num_workers": 0, "horizontal_flip": True},
    "training": {
        "epochs": 4,
        "optimizer": "adamw",
        "learning_rate": 1e-3,
        "optimizer_kwargs": {"weight_decay": 0.01},
        "scheduler": "cosine",
        "scheduler_kwargs": {"eta_min": 1e-5},
        "ema_decay": 0.9,
        "visualization": {"sample_images": False},
    },
}


def run_file(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return command(folder, "-m", "diffusion_lab", *arguments)


def first_losses(run_folder: Path) -> list[float]:
    lines = (run_folder / "logs" / "metrics.jsonl").read_text().splitlines()
    losses = [line["train/loss"] for line in map(json.loads, lines) if "train/loss" in line]
    return losses[:10]


def test_a_file_trains_and_a_file_generates(tmp_path: Path) -> None:
    trained = run_file(tmp_path, str(FIXTURES.parent / "diffusion_minimal.yaml"))
    assert trained.returncode == 0, trained.stderr
    made = run_file(
        tmp_path,
        str(STANDALONE / "generate.yaml"),
        "generation.checkpoint=outputs/minimal",
        "generation.sampling.num_samples=2",
        "compute.device=cpu",
        "sampler={type:ddim,steps:2}",
    )
    assert made.returncode == 0, made.stderr
    assert "2 images in outputs/generated" in made.stdout
    assert (tmp_path / "outputs" / "generated" / "grid.png").is_file()


@pytest.mark.parametrize("name", ["default", "legacy"])
def test_the_complete_training_files_run(tmp_path: Path, image_folder: Path, name: str) -> None:
    done = run_file(
        tmp_path,
        str(STANDALONE / f"{name}.yaml"),
        f"data.paths.train={image_folder}",
        "compute.device=cpu",
        "data.loading.num_workers=0",
        "training.epochs=1",
        "training.visualization.enabled=false",
        "model.architecture.model_channels=8",
        "model.architecture.image_size=8",
    )
    assert done.returncode == 0, done.stderr
    assert find_checkpoint(tmp_path / "outputs", "last").is_file()


def test_validate_prints_the_resolved_tree_and_runs_nothing(tmp_path: Path) -> None:
    done = run_file(tmp_path, "--validate", str(FIXTURES.parent / "diffusion_minimal.yaml"), "training.epochs=5")
    assert done.returncode == 0, done.stderr
    tree = yaml.safe_load(done.stdout)
    assert tree["training"]["epochs"] == 5
    assert tree["training"]["accumulate_batches"] == 1  # extensions are included with their defaults
    assert not list(tmp_path.iterdir())


def test_output_of_validate_is_a_valid_file(tmp_path: Path) -> None:
    once = run_file(tmp_path, "--validate", str(FIXTURES.parent / "diffusion_minimal.yaml")).stdout
    (tmp_path / "again.yaml").write_text(once)
    assert run_file(tmp_path, "--validate", "again.yaml").stdout == once


def test_faults_of_a_file(tmp_path: Path) -> None:
    done = run_file(tmp_path, str(FIXTURES / "invalid_several.yaml"))
    assert done.returncode == 2
    assert done.stderr.startswith("Error: 5 settings are wrong:")
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_error_about_a_missing_file(tmp_path: Path) -> None:
    done = run_file(tmp_path, "none.yaml")
    assert done.returncode == 2
    assert "none.yaml" in done.stderr
    assert "Traceback" not in done.stderr


def test_hydra_v2_and_v1_give_the_same_losses(tmp_path: Path, image_folder: Path) -> None:
    v1: dict[str, Any] = {**SMALL_V1, "data": {**SMALL_V1["data"], "train_path": str(image_folder)}}  # type: ignore[dict-item]
    (tmp_path / "v1.yaml").write_text(yaml.safe_dump(v1))
    each_step = ("training.log_interval=1",)
    done = run_file(tmp_path, "v1.yaml", "output.base_dir=v1", *each_step)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("V1 format") == 1

    migrate = ("scripts/migrate_config_v1_to_v2.py", "--input", "v1.yaml")
    succeeds(tmp_path, *migrate, "--output", "v2.yaml")
    done = run_file(tmp_path, "v2.yaml", "output.base_dir=v2", *each_step)
    assert done.returncode == 0, done.stderr

    (words,) = printed_commands(succeeds(tmp_path, *migrate, "--to-overrides").stdout)
    pasted(tmp_path, [*words, "output.base_dir=hydra", *each_step])

    losses = [first_losses(tmp_path / way) for way in ("v1", "v2", "hydra")]
    assert len(losses[0]) == 10
    assert losses[0] == losses[1] == losses[2]
