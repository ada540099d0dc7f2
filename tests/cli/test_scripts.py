"""Command lines of train.py, sample.py and evaluate.py, up to the start of the work."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "lightning", "wandb", "torchvision", "sklearn")

RUN_AND_LIST_IMPORTS = f"""
import runpy, sys
script, sys.argv = sys.argv[1], sys.argv[1:]
try:
    runpy.run_path(script, run_name="__main__")
finally:
    print("IMPORTED", [name for name in {HEAVY!r} if name in sys.modules])
"""


def run(folder: Path, script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", RUN_AND_LIST_IMPORTS, str(ROOT / script), *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("script", ["train.py", "sample.py", "evaluate.py"])
@pytest.mark.parametrize("arguments", [["--help"], ["--cfg", "job"], ["--cfg", "job", "--resolve"]])
def test_printing_settings_imports_nothing_heavy_and_writes_nothing(
    tmp_path: Path, script: str, arguments: list[str]
) -> None:
    result = run(tmp_path, script, *arguments)
    assert result.returncode == 0, result.stderr
    assert "IMPORTED []" in result.stdout
    assert not list(tmp_path.iterdir())


def test_help_lists_groups_examples_and_completion(tmp_path: Path) -> None:
    text = run(tmp_path, "train.py", "--help").stdout
    for wanted in (
        "optimizer: adam, adamw",
        "data=image_folder data.paths.train=DIR",
        "-m optimizer=adam,adamw diffusion=linear,cosine",
        'eval "$(python train.py --shell-completion install=bash)"',
    ):
        assert wanted in text


def test_all_faults_are_in_one_message_and_nothing_is_written(tmp_path: Path) -> None:
    result = run(
        tmp_path,
        "train.py",
        "+training.optimizer.learnin_rate=1",
        "training.ema.decay=2",
        "model.architecture.use_attention=[true]",
    )
    assert result.returncode == 2
    assert "IMPORTED []" in result.stdout
    assert "Error: 3 settings are wrong:" in result.stderr
    assert (
        "training.optimizer.learnin_rate = 1: unknown key (did you mean 'training.optimizer.learning_rate'?)"
        in result.stderr
    )
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.iterdir())


def test_a_key_that_hydra_refuses_is_explained_with_all_other_faults(tmp_path: Path) -> None:
    result = run(tmp_path, "train.py", "training.optimizer.learnin_rate=1", "training.epochs=0")
    assert result.returncode == 2
    assert "IMPORTED []" in result.stdout
    assert result.stderr.splitlines() == [
        "Error: 2 settings are wrong:",
        "  training.epochs = 0: must be at least 1 [command line]",
        "  training.optimizer.learnin_rate = 1: unknown key "
        "(did you mean 'training.optimizer.learning_rate'?) [command line]",
    ]
    assert not list(tmp_path.iterdir())


def test_a_mistyped_short_name_of_sample(tmp_path: Path) -> None:
    result = run(tmp_path, "sample.py", "num_sample=3")
    assert "num_sample = 3: unknown key (did you mean 'num_samples'?) [command line]" in result.stderr


def test_an_unknown_choice_of_a_group(tmp_path: Path) -> None:
    result = run(tmp_path, "train.py", "optimizer=adamww")
    assert result.returncode == 2
    assert "Could not find 'optimizer/adamww'" in result.stderr
    assert result.stderr.rstrip().endswith("Did you mean 'adamw'?")
    assert "Traceback" not in result.stderr


def test_a_mistyped_key_in_a_sweep(tmp_path: Path) -> None:
    result = run(tmp_path, "train.py", "-m", "training.optimizer.learnin_rate=1,2")
    assert result.returncode == 2
    assert result.stderr.rstrip().endswith("Did you mean 'training.optimizer.learning_rate'?")


def test_a_known_key_that_the_files_leave_out_needs_a_plus(tmp_path: Path) -> None:
    result = run(tmp_path, "train.py", "training.optimizer.eps=1e-8")
    assert result.returncode == 2
    assert "type +training.optimizer.eps=1e-8" in result.stderr
    assert "Did you mean" not in result.stderr


def test_a_broken_reference(tmp_path: Path) -> None:
    result = run(tmp_path, "train.py", "compute.device=${nothing}")
    assert 'compute.device = "${nothing}": cannot be resolved' in result.stderr


def test_traceback_on_request(tmp_path: Path) -> None:
    result = run(tmp_path, "train.py", "training.epochs=0", DIFFUSION_LAB_TRACEBACK="1")
    assert result.returncode == 1
    assert "Traceback" in result.stderr


def test_sample_without_a_checkpoint(tmp_path: Path) -> None:
    result = run(tmp_path, "sample.py")
    assert result.returncode == 2
    assert "generation.checkpoint = null: must be an existing checkpoint file or run folder" in result.stderr
    assert not list(tmp_path.iterdir())


def test_a_sweep_can_be_requested_by_hydras_key(tmp_path: Path) -> None:
    result = run(tmp_path, "train.py", "hydra.mode=MULTIRUN", "training.epochs=0,-1")
    assert all(f"Error in job {number}: 1 setting is wrong" in result.stderr for number in range(2))


def test_each_job_of_a_sweep_has_its_own_folder(tmp_path: Path) -> None:
    result = run(tmp_path, "train.py", "-m", "optimizer=adam,adamw", "training.epochs=0,-1")
    assert result.returncode == 1
    assert all(f"Error in job {number}: 1 setting is wrong" in result.stderr for number in range(4))
    (sweep,) = (tmp_path / "outputs" / "sweeps").iterdir()
    assert sorted(job.name for job in sweep.iterdir() if job.is_dir()) == [
        "optimizer-adam_epochs--1",
        "optimizer-adam_epochs-0",
        "optimizer-adamw_epochs--1",
        "optimizer-adamw_epochs-0",
    ]
