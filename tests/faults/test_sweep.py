"""Sweeps with a failed job or a signal: the other jobs, the messages, and the second command."""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.faults.conftest import TINY, Start
from tests.programs import Program

pytestmark = [pytest.mark.faults, pytest.mark.integration]

QUICK = ("training.epochs=1", "training.visualization.enabled=false")
SWEEP = ("train.py", "-m", *TINY, *QUICK, "hydra.sweep.dir=sweep")


def states(sweep: Path) -> Mapping[str, str]:
    return {job["folder"]: job["state"] for job in jobs_of(sweep)}


def jobs_of(sweep: Path) -> list[dict[str, Any]]:
    jobs: list[dict[str, Any]] = json.loads((sweep / "sweep.json").read_text())
    return jobs


def trained(run: Program) -> list[str]:
    """Return the folders in which a sweep has started a run."""
    lines = [line.removeprefix("run folder  sweep/") for line in run.err.splitlines()]
    return [line for line, whole in zip(lines, run.err.splitlines(), strict=True) if line != whole]


def test_a_failed_job_does_not_stop_others_and_runs_again(start: Start, tmp_path: Path) -> None:
    """Row 25: the others finish, the summary says which failed and why, and only missing jobs run again."""
    sweep = tmp_path / "work" / "sweep"
    run = start(*SWEEP, "training.ema.decay=1.5,0.9")
    assert run.wait() == 1
    good, failed = jobs_of(sweep)
    assert (failed["state"], failed["overrides"]) == ("failed", ["training.ema.decay=1.5"])
    assert "training.ema.decay = 1.5: must be less than 1" in failed["why"]
    assert (good["state"], good["metric"], good["why"]) == ("finished", "val/loss", None)
    assert good["best_value"] > 0
    assert "1 of 2 jobs finished" in run.err
    assert f"{good['best_value']:.4g}" in run.err
    assert "Traceback" not in run.err

    more = start(*SWEEP, "training.ema.decay=1.5,0.9,0.95")
    assert more.wait() == 1
    assert trained(more) == ["decay-0.95"]
    assert "decay-0.9: already finished, skipped" in more.err
    fewer = start(*SWEEP, "training.ema.decay=0.95")
    assert fewer.wait() == 0, fewer.err
    assert "decay-0.95: already finished, skipped" in fewer.err
    assert states(sweep) == {"decay-0.9": "finished", "decay-0.95": "finished", "decay-1.5": "failed"}


def test_a_job_with_other_settings_is_not_considered_finished(start: Start, tmp_path: Path) -> None:
    """Row 25: finished jobs are recognized by their settings, not only by the name of their folder."""
    assert start(*SWEEP, "optimizer=adam,adamw").wait() == 0
    other = start(*SWEEP, "optimizer=adam,adamw", "training.scheduler.warmup_steps=3")
    assert other.wait() == 1
    assert "training.scheduler.warmup_steps 2, now 3" in other.err
    assert trained(other) == []
    assert sorted(job["state"] for job in jobs_of(tmp_path / "work" / "sweep")) == ["finished"] * 2 + ["refused"] * 2
    assert "2 of 4 jobs finished" in other.err
    assert other.err.count("│ refused") == 2
    replaced = start(*SWEEP, "optimizer=adam,adamw", "training.scheduler.warmup_steps=3", "output.overwrite=true")
    assert replaced.wait() == 0, replaced.err
    assert len(trained(replaced)) == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_sweep_is_resumed(start: Start, tmp_path: Path, number: signal.Signals) -> None:
    """Row 25: Ctrl-C ends the sweep, not just its job; the interrupted job resumes from its checkpoint."""
    sweep = tmp_path / "work" / "sweep"
    command = (*SWEEP, "training.epochs=6", "optimizer=adam,adamw")
    run = start(*command, env=Program.paused_at("metrics.jsonl", 11))  # in the third epoch: the first one is saved
    run.wait_until_paused()
    run.signal(number)
    run.go_on()
    assert run.wait() == (130 if number == signal.SIGINT else -signal.SIGKILL)
    assert trained(run) == ["optimizer-adam"]
    if number == signal.SIGINT:
        assert states(sweep) == {"optimizer-adam": "interrupted"}
    again = start(*command)
    assert again.wait() == 0, again.err
    assert trained(again) == ["optimizer-adam", "optimizer-adamw"]
    assert "epoch 1/6" not in again.err.partition("run folder  sweep/optimizer-adamw")[0]
    assert set(states(sweep).values()) == {"finished"}


def test_jobs_in_separate_processes(start: Start, tmp_path: Path) -> None:
    """Row 25: the same with the joblib launcher, whose jobs run in parallel in other processes."""
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="pip install -e '.[launchers]'")
    run = start(*SWEEP, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "training.ema.decay=1.5,0.9")
    assert run.wait() == 1
    assert states(tmp_path / "work" / "sweep") == {"decay-0.9": "finished", "decay-1.5": "failed"}
    assert "1 of 2 jobs finished" in run.err
