"""An interrupted `evaluate.py` continues where it stopped: neither images nor measurements are repeated."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.faults.conftest import TINY, Start
from tests.programs import Launcher, Program

pytestmark = [pytest.mark.faults, pytest.mark.integration]

COMMAND = (
    *("evaluate.py", "ckpt=run", "device=cpu", "num_samples=24", "features=pixels", "metrics=[fd,kid]"),
    *("sampler.steps=[1,2]", "generation.sampling.batch_size=4"),
)


@pytest.fixture(scope="module")
def work(launcher: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "work"
    folder.mkdir()
    trained = Program(launcher, ("train.py", *TINY, "training.epochs=1", "output.base_dir=run"), folder, {})
    assert trained.wait() == 0, trained.err
    return folder


def numbers(folder: Path) -> list[Any]:
    content = json.loads((folder / "run/evaluation/evaluation.json").read_text())
    return [result["measurement"] for result in content["results"]]


def test_a_kill_and_signals_while_sampling_and_measuring(start: Start, work: Path) -> None:
    """Stopped while images of the second point are sampled, then before its measurement is saved; then it finishes."""
    program = start(*COMMAND, folder=work, env=Program.paused_at("*.pixels.raw", 10))
    program.wait_until_paused()
    program.signal(signal.SIGKILL)
    program.wait()
    (kept,) = work.glob("run/evaluation/*/*/measurements/*.json")
    before = kept.stat().st_mtime_ns

    program = start(*COMMAND, folder=work, env=Program.paused_at("?" * 16 + ".json", 1))
    program.wait_until_paused()
    program.signal(signal.SIGTERM)
    program.go_on()
    assert program.wait() == 143
    (message,) = re.findall(r"^Stopped by .*$", program.err, re.MULTILINE)
    assert "run the same command again to continue with the finished images and measurements" in message
    assert "Traceback" not in program.err
    assert re.search(r"Continuing in run/evaluation/\S+: \d+ of 24 images are there", program.err)
    arrays = {path: path.stat().st_mtime_ns for path in work.glob("run/evaluation/*/*/samples.npz")}
    assert len(arrays) == 2

    again = start(*COMMAND, folder=work)
    assert again.wait() == 0, again.err
    assert {path: path.stat().st_mtime_ns for path in arrays} == arrays
    assert kept.stat().st_mtime_ns == before
    interrupted = numbers(work)
    whole = start(*COMMAND, "output.base_dir=elsewhere", folder=work)
    assert whole.wait() == 0, whole.err
    undisturbed = json.loads((work / "elsewhere/evaluation.json").read_text())["results"]
    assert interrupted == [result["measurement"] for result in undisturbed]
