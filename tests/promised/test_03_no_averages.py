"""Averaged weights are requested, but the checkpoint has none: one clean warning, and the result records it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from diffusion_lab import DiffusionSampler, create_ddpm, load_denoiser
from diffusion_lab.config import ConfigWarning, get_default_config, validate_config
from diffusion_lab.config.validate import parse_config
from diffusion_lab.generation.generate import generate
from tests.promised.older_program import MODEL
from tests.recorded_warnings import recorded_warnings

ROOT = Path(__file__).parents[2]


@pytest.fixture
def without_ema(tmp_path: Path) -> Path:
    model = create_ddpm(**MODEL["architecture"], num_timesteps=20, num_classes=3)
    path = tmp_path / "no_ema.pt"
    torch.save({"model_state_dict": model.state_dict(), "ema_state_dict": None, "num_classes": 3}, path)
    return path


def test_in_python_the_warning_is_one_clean_line(without_ema: Path) -> None:
    """As printed by a script: without category and source line."""
    script = f"""
from diffusion_lab import load_denoiser
denoiser = load_denoiser({str(without_ema)!r}, use_ema=True, model={MODEL!r})
print(denoiser.weights)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "raw"
    assert done.stderr.strip() == f"Warning: {without_ema} holds no EMA weights: the raw weights are used."


def test_the_warning_has_its_own_class_and_the_raw_weights_are_used(without_ema: Path) -> None:
    with pytest.warns(ConfigWarning) as caught:
        denoiser = load_denoiser(without_ema, use_ema=True, model=MODEL)
    assert len(caught) == 1
    raw = load_denoiser(without_ema, use_ema=False, model=MODEL)
    assert denoiser.weights == raw.weights == "raw"
    images, expected = (DiffusionSampler(each).sample(2, [0, 1], seed=0) for each in (denoiser, raw))
    assert torch.equal(images, expected)


def test_generation_warns_once_and_its_result_says_so(
    without_ema: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = {key: get_default_config()[key] for key in ("experiment", "compute", "output", "generation")}
    tree |= {"mode": "generate", "model": MODEL, "sampler": {"type": "ddim", "steps": 2}}
    tree["compute"]["device"], tree["output"]["base_dir"] = "cpu", str(tmp_path / "out")
    tree["generation"]["checkpoint"] = str(without_ema)
    tree["generation"]["sampling"] |= {"num_samples": 3, "use_ema": True}
    validate_config(tree)
    with recorded_warnings() as caught:
        done = generate(parse_config(tree))
    assert [str(warning.message) for warning in caught] == [
        f"{without_ema} holds no EMA weights: the raw weights are used"
    ]
    assert done.weights == "raw"
    assert ", raw weights\n" in capsys.readouterr().err
    assert f"3 images from the raw weights in {done.folder}" in str(done)
    lines = [json.loads(line) for line in (done.folder / "manifest.jsonl").read_text().splitlines()]
    assert [(line["use_ema"], line["ema_decay"]) for line in lines] == [(False, None)] * 3
