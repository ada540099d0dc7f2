from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from hydra import compose
from PIL import Image

import diffusion_lab  # noqa: F401  # before Lightning, which imports torchvision
from diffusion_lab.cli.hydra_app import initialized_hydra
from diffusion_lab.cli.report import run_and_report
from diffusion_lab.runtime.exit_codes import EXIT_CODE
from tests.programs import Program, shared_launcher

ROOT = Path(__file__).parents[2]

SMALL = (
    "compute.device=cpu",
    "logger=none",
    "model.architecture.model_channels=8",
    "model.architecture.num_res_blocks=1",
    "model.diffusion.num_timesteps=20",
    "training.epochs=2",
    "training.scheduler.warmup_steps=2",
    "training.visualization.num_samples=10",
    "sampler.steps=2",
)
"""Overrides for a run of seconds."""

Refused = Callable[..., str]


def command(folder: Path, script: str, *overrides: str) -> subprocess.CompletedProcess[str]:
    """Run the real program in a separate process."""
    program = Program(shared_launcher(), (script, *overrides), folder, dict(os.environ))
    code = program.wait(300)
    return subprocess.CompletedProcess([script, *overrides], code, program.out, program.err)


def succeeds(folder: Path, script: str, *overrides: str) -> subprocess.CompletedProcess[str]:
    done = command(folder, script, *overrides)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done


def printed_commands(text: str) -> list[list[str]]:
    """Return the commands of this project in the output of a program, as the shell splits them."""
    lines = re.findall(
        r"^(?:.*: |\s*)((?:\S*/)?(?:python3? (?:\S*\.py|-m diffusion_lab)|diffusion-lab ).*)$", text, re.MULTILINE
    )
    return [shlex.split(line, comments=True) for line in lines]


def pasted(folder: Path, words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run a printed command in the folder where it was printed."""
    assert shutil.which(words[0]) == sys.executable or words[0] == sys.executable
    return succeeds(folder, *words[1:])


def run_here(script: str, overrides: Sequence[str]) -> None:
    """Run the program in this process, since starting Python with Lightning takes several seconds."""
    with initialized_hydra("app", ROOT / "conf"):
        composed = compose(script, list(overrides))
    run_and_report(lambda: import_module(f"diffusion_lab.commands.{script}").run(composed))


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Return a function that runs a command that must be refused, and returns its standard error."""

    def run(script: str, *overrides: str) -> str:
        monkeypatch.chdir(tmp_path)
        before = sorted(tmp_path.rglob("*"))
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            run_here(script, overrides)
        err = capsys.readouterr().err
        assert caught.value.code == EXIT_CODE != 0
        assert len(re.findall(r"^Error: ", err, re.MULTILINE)) == 1
        assert "Traceback" not in err
        assert sorted(tmp_path.rglob("*")) == before, "nothing may be left behind"
        return err

    return run


@pytest.fixture
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with two classes of eight small images."""
    folder = tmp_path_factory.mktemp("pictures")
    pixels = np.random.default_rng(0)
    for name in ("rose", "tulip"):
        (folder / name).mkdir()
        for number in range(8):
            image = Image.fromarray(pixels.integers(0, 256, (8, 8), dtype=np.uint8))
            image.save(folder / name / f"{number}.png")
    return folder


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder of a small `python train.py`."""
    folder = tmp_path_factory.mktemp("digits")
    done = succeeds(folder, "train.py", *SMALL)
    (run,) = (folder / "outputs" / "digits").iterdir()
    checkpoint = f"ckpt=outputs/digits/{run.name}"
    printed = [words[1:] for words in printed_commands(done.stderr)]
    assert printed == [[str(ROOT / program), checkpoint] for program in ("sample.py", "evaluate.py")]
    return run
