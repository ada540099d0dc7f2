"""The package installed from a wheel: it contains all settings, and its command works from any folder."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from diffusion_lab.__main__ import main
from tests.commands.conftest import ROOT
from tests.programs import Launcher, Program

CONSOLE_SCRIPT = """
import sys
from diffusion_lab.__main__ import main
if __name__ == "__main__":
    sys.exit(main())
"""
"""Script that installers write for the entry point."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    builders = pytest.importorskip("hatchling.builders.wheel", reason="pip install hatchling, a part of make setup")
    (file,) = builders.WheelBuilder(str(ROOT)).build(
        directory=str(tmp_path_factory.mktemp("wheel")), versions=["standard"]
    )
    return Path(file)


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the package and its console script, as an installer writes them."""
    folder = tmp_path_factory.mktemp("environment")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    (folder / "bin").mkdir()
    (folder / "bin/diffusion-lab").write_text(CONSOLE_SCRIPT)
    (folder / "bin/diffusion-lab").chmod(0o755)
    return folder


def test_the_wheel_contains_the_settings_and_data(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    conf = {file.relative_to(ROOT).as_posix() for file in (ROOT / "conf").rglob("*.yaml")}
    assert {name.removeprefix("diffusion_lab/") for name in names if name.startswith("diffusion_lab/conf/")} == conf
    assert {"diffusion_lab/py.typed", "diffusion_lab/data/emoji.npz"} <= names
    assert {name.partition("/")[0] for name in names} == {"diffusion_lab", "diffusion_lab-0.1.0.dist-info"}


def test_the_entry_point_is_the_command(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
        text = archive.read(name).decode()
    (target,) = re.findall(r"^diffusion-lab = (\S+)$", text, re.MULTILINE)
    assert EntryPoint("diffusion-lab", target, "console_scripts").load() is main


def test_the_installed_command_composes_its_settings_in_any_folder(site: Path, tmp_path: Path) -> None:
    """From its own files and those of the user."""
    (tmp_path / "mine/optimizer").mkdir(parents=True)
    (tmp_path / "mine/optimizer/plain.yaml").write_text("# @package training.optimizer\ntype: adam\nlearning_rate: 0\n")
    done = subprocess.run(
        [sys.executable, site / "bin/diffusion-lab", "train", "--config-dir=mine", "optimizer=plain", "data=emoji"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if "learning_rate = 0" in line]
    assert line.endswith("[mine/optimizer/plain.yaml:3]")
    assert [file.name for file in tmp_path.iterdir()] == ["mine"]


@pytest.fixture
def launcher(site: Path) -> Iterator[Launcher]:
    """Launcher of the installed package."""
    (site / "tests").mkdir()
    script = site / "tests/program_launcher.py"
    script.write_text((ROOT / "tests/program_launcher.py").read_text())
    launcher = Launcher(script)
    yield launcher
    launcher.close()


@pytest.mark.slow
def test_train_sample_evaluate_resume_and_sweep(site: Path, launcher: Launcher, tmp_path: Path) -> None:
    """Every printed command is one of diffusion-lab, and works where it was printed."""
    here = tmp_path / "here"
    here.mkdir()

    def succeeds(*words: str) -> Program:
        program = Program(launcher, ("bin/diffusion-lab", *words), here, {"PATH": f"{site}/bin:{os.environ['PATH']}"})
        assert program.wait() == 0, program.err
        assert "train.py" not in program.err + program.out
        return program

    def printed(program: Program) -> list[list[str]]:
        lines = re.findall(r": (diffusion-lab .*)$", program.err, re.MULTILINE)
        return [shlex.split(line)[1:] for line in lines]

    (here / "my_lab.py").write_text("from torch.optim import AdamW\n\n\nclass Plain(AdamW):\n    pass\n")
    small = ("experiment=fast_debug", "training.epochs=1", "compute.device=cpu")
    trained = succeeds("train", *small, "training.optimizer.type=my_lab.Plain", "output.base_dir='run (1)'")
    sampling, evaluating = printed(trained)
    assert "10 images in" in succeeds(*sampling, "num_samples=10", "device=cpu").out
    few = ("num_samples=20", "sampler.steps=1", "features=pixels", "metrics=[kid]", "device=cpu")
    assert "evaluation.json" in succeeds(*evaluating, *few).out
    recorded = json.loads((here / "run (1)/environment.json").read_text())
    assert recorded["command"][1:3] == ["train", "experiment=fast_debug"]
    assert recorded["git_commit"] is None

    *_, of_best, _ = printed(succeeds("train", "-m", *small, "optimizer=adam,adamw", "hydra.sweep.dir=sweep"))
    assert of_best == ["sample", "ckpt=sweep"]
