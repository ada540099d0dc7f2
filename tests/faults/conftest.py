"""Real programs in separate processes, to be killed, limited in memory, and given damaged files."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.programs import Launcher, Program, shared_launcher

TINY = (
    "compute.device=cpu",
    "logger=none",
    "model.architecture.model_channels=8",
    "model.architecture.num_res_blocks=1",
    "model.diffusion.num_timesteps=20",
    "data.loading.batch_size=300",
    "training.epochs=4",
    "training.scheduler.warmup_steps=2",
    "training.log_interval=1",
    "training.checkpointing.save_frequency=1",
    "training.visualization.interval=2",
    "training.visualization.num_samples=10",
    "sampler.steps=2",
)
"""Overrides that make `train.py` on the digits a run of seconds: four steps per epoch."""

AGAIN = ("training.resume.enabled=true", "training.resume.checkpoint=auto", "output.base_dir=run")
"""Overrides with which the same command starts a run, resumes it, or reports that it is complete."""


Start = Callable[..., Program]


@pytest.fixture(scope="session")
def launcher() -> Launcher:
    return shared_launcher()


@pytest.fixture
def start(launcher: Launcher, tmp_path: Path) -> Iterator[Start]:
    """Start a program: ``start("train.py", *TINY)``, in ``tmp_path/"work"`` unless ``folder=`` names another."""
    started: list[Program] = []

    def run(*program: str, folder: Path | None = None, env: dict[str, str] | None = None) -> Program:
        place = folder or tmp_path / "work"
        place.mkdir(exist_ok=True)
        started.append(Program(launcher, program, place, env or {}))
        return started[-1]

    yield run
    for program in started:
        if program.running:
            os.killpg(program.pid, signal.SIGKILL)
            program.ended(10)
