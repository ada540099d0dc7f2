"""The programs that other tests start are the real ones."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.faults.conftest import TINY, Start

pytestmark = pytest.mark.faults


def test_a_run_finishes(start: Start, tmp_path: Path) -> None:
    run = start("train.py", *TINY, "training.epochs=1", "output.base_dir=run")
    assert run.wait() == 0, run.err
    assert (tmp_path / "work" / "run" / "summary.json").is_file()


def test_exit_codes_and_messages_are_those_of_the_program(start: Start) -> None:
    wrong = start("train.py", "training.epochs=0")
    assert wrong.wait() == 2
    assert "training.epochs" in wrong.err


def test_a_program_can_be_killed(start: Start, tmp_path: Path) -> None:
    run = start("train.py", *TINY, "training.epochs=100", "output.base_dir=run")
    run.until(lambda: (tmp_path / "work" / "run" / "status.json").is_file())
    run.signal(signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL
