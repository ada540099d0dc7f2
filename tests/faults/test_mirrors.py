"""Failures of standard error, log files and loggers do not end a run; and the report of a failed run."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.conftest import TINY, Start
from tests.program_launcher import ROOT

pytestmark = pytest.mark.faults


def status(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "status.json").read_text())
    return content


@pytest.mark.parametrize("how", ["closed", "full", "gone"])
def test_nobody_reads_standard_error(how: str, start: Start, tmp_path: Path) -> None:
    """Row 26: training continues, and no message goes to a file that reuses the number of the closed descriptor."""
    quick = (*TINY, "training.epochs=1", "output.base_dir=run")
    run = start("-m", "tests.faults.without_stderr", how, str(ROOT / "train.py"), *quick)
    assert run.wait() == 0, run.out
    folder = tmp_path / "work" / "run"
    assert status(folder)["state"] == "finished"
    for line in (folder / "logs" / "metrics.jsonl").read_text().splitlines():
        json.loads(line)
    assert (folder / "config.yaml").read_text().startswith("# The resolved configuration")


@pytest.mark.parametrize("how", ["closed", "full", "gone"])
def test_an_unread_error_has_its_exit_code(how: str, start: Start) -> None:
    run = start("-m", "tests.faults.without_stderr", how, str(ROOT / "train.py"), "training.epochs=-1")
    assert run.wait() == 2


@pytest.fixture
def full_logs(tmp_path: Path) -> Iterator[Path]:
    """Log folder of a run on a full disk."""
    logs = tmp_path / "work" / "run" / "logs"
    logs.mkdir(parents=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", logs], capture_output=True).returncode:
        pytest.skip("a file system cannot be mounted here")
    with contextlib.suppress(OSError):  # the disk is full
        (logs / "filler").write_bytes(bytes(2**20))
    yield logs
    subprocess.run(["umount", "--lazy", logs], check=True)


def test_logs_on_a_full_disk(start: Start, tmp_path: Path, full_logs: Path) -> None:
    """Row 27: each log file that cannot be written is reported once; checkpoints can, so training continues."""
    overrides = [override for override in TINY if not override.startswith("logger")]
    run = start("train.py", *overrides, "logger=all", "training.epochs=2", "output.base_dir=run")
    assert run.wait() == 0, run.err
    assert status(tmp_path / "work" / "run")["state"] == "finished"
    assert list((tmp_path / "work" / "run" / "checkpoints").glob("step_*.ckpt"))
    for file in ("metrics.jsonl cannot be", "run.log cannot be", "TensorBoard can no longer be", "W&B "):
        assert run.err.count(f"{file}") == 1, run.err
    assert "No space left on device" in run.err
    assert "Traceback" not in run.err + run.out
    assert "Errno" not in run.err


def test_failure_of_a_run_is_one_message(start: Start, tmp_path: Path) -> None:
    """Row 28: one message on standard error, nothing on standard output, the traceback in ``run.log``."""
    sampler = ("sampler.type=tests.faults.own_parts.FailingSampler", "training.visualization.interval=2")
    run = start("train.py", *TINY, *sampler, "output.base_dir=run", env={"PYTHONPATH": str(ROOT)})
    assert run.wait() == 2
    assert run.out == ""
    assert run.err.count("out of luck while sampling") == 1
    assert re.search(
        r"^Error: the run failed with RuntimeError: out of luck while sampling\.?\n.*run/logs/run\.log",
        run.err,
        re.MULTILINE,
    )
    assert "Traceback" not in run.err
    log = (tmp_path / "work" / "run" / "logs" / "run.log").read_text()
    assert "Traceback" in log
    assert "out of luck while sampling" in log
    assert status(tmp_path / "work" / "run")["state"] == "failed"
