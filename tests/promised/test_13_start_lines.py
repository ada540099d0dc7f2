"""The first lines of a command describe what it does: size, channels, classes, timesteps, prediction, machine."""

from __future__ import annotations

import re
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from diffusion_lab.config.model_section import DiffusionSettings
from diffusion_lab.runs.startup_lines import describe_compute, describe_images, describe_process
from tests.commands.conftest import run_here
from tests.training.tiny import tiny_run


def start_lines(folder: Path, changes: dict[str, Any]) -> dict[str, str]:
    shown = StringIO()
    tiny_run(folder, {"training.epochs": 1} | changes, Console(file=shown, width=80))
    lines = shown.getvalue().partition("epoch 1/1")[0].splitlines()
    assert lines[0] == "tiny"
    assert all(len(line) <= 80 for line in lines if not line.startswith("run folder"))
    return {line[:12].strip(): line[12:] for line in lines[1:] if line[:12].strip()}


def test_training(tmp_path: Path) -> None:
    printed = start_lines(tmp_path, {"compute.threads": 1})
    assert list(printed) == ["images", "validation", "model", "diffusion", "training", "compute", "run folder"]
    assert printed["images"] == "18 of 8×8 pixels, 1 channel, 3 classes"
    assert printed["diffusion"] == "cosine, 20 timesteps, predicts epsilon"
    assert printed["training"] == "1 epoch of 3 batches of 6"
    assert printed["compute"] == "cpu (1 thread), float32, seed 0"
    assert printed["run folder"] == str(tmp_path)


def test_training_without_classes_in_continuous_time_with_a_drawn_seed(tmp_path: Path) -> None:
    changes = {
        "model.conditioning": {"type": None, "num_classes": None, "class_dropout_prob": 0.1},
        "model.diffusion.type": "flow",
        "model.diffusion.prediction": "flow",
        "model.architecture.in_channels": 3,
        "compute.seed": None,
        "training.accumulate_batches": 2,
    }
    printed = start_lines(tmp_path, changes)
    assert printed["images"] == "18 of 8×8 pixels, 3 channels, no classes"
    assert printed["diffusion"] == "flow, continuous time, predicts flow"
    assert printed["training"] == "1 epoch of 3 batches of 6, 2 batches an optimizer step"
    (seed,) = re.findall(r"^\s+seed: (\d+)$", (tmp_path / "config.yaml").read_text(), re.MULTILINE)[:1]
    assert printed["compute"].endswith(f", float32, seed {seed} (drawn)")


def test_sampling(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_run(tmp_path / "run", {"training.epochs": 1})
    chosen = [f"ckpt={tmp_path / 'run'}", "num_samples=6", "device=cpu", f"output.base_dir={tmp_path / 'out'}"]
    capsys.readouterr()
    run_here("sample", [*chosen, "guidance_scale=[1,2.5]", "seed=7"])
    printed = capsys.readouterr()
    assert (
        "images      6 of 8×8 pixels, 1 channel, 3 classes\n"
        "sampler     ddim, 20 steps, guidance 1, 2.5, averaged weights\n"
        "diffusion   cosine, 20 timesteps, predicts epsilon\n"
        "compute     cpu ("
    ) in printed.err
    assert re.search(r"^compute     cpu \(\d+ threads?\), float32, seed 7$", printed.err, re.MULTILINE)
    assert "seed" not in printed.out, "standard output has results alone"


def test_words() -> None:
    assert describe_images(50_000, (3, 32, 24), 1) == "50,000 of 24×32 pixels, 3 channels, 1 class"
    discrete = DiffusionSettings(num_timesteps=1000, beta_schedule="linear", beta_start=0.1, beta_end=0.2)
    assert describe_process(discrete, 1000) == "linear, 1,000 timesteps, predicts epsilon"
    gpu = torch.device("cuda", 1)
    assert describe_compute(gpu, 8, torch.bfloat16, 3, drawn=False) == "cuda:1, bfloat16, seed 3"
    assert describe_compute(torch.device("cpu"), 2, torch.float32, 0, drawn=True).startswith("cpu (2 threads), float32")
