"""Sweeps whose jobs run in other processes, and searches: failures, signals, kills; if the packages are installed."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from diffusion_lab.sweeps.job_record import JobRecord
from tests.faults.conftest import Start
from tests.faults.test_sweep import SWEEP, jobs_of, states
from tests.programs import Program

pytestmark = pytest.mark.faults

JOBLIB = (*SWEEP, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
SUBMITIT = (*SWEEP, "hydra/launcher=submitit_local")
SEARCH = (
    *SWEEP,
    "hydra/sweeper=optuna",
    "hydra.sweeper.n_trials=3",
    "hydra.sweeper.n_jobs=1",
    "training.ema.decay=interval(0.5,0.9)",
    "training.epochs=2",
)
FOR_EVER = "training.epochs=100000"


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    return tmp_path / "work" / "sweep"


@pytest.fixture
def joblib() -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="pip install -e '.[launchers]'")


@pytest.fixture
def submitit() -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="pip install -e '.[launchers]'")


@pytest.fixture
def optuna() -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="pip install -e '.[optuna]'")


def training(sweep: Path, jobs: int) -> bool:
    """Return whether this number of jobs have a checkpoint to resume from."""
    return len({file.parents[1] for file in sweep.glob("*/checkpoints/*.manifest.json")}) >= jobs


def statuses(sweep: Path) -> list[dict[str, Any]]:
    return [json.loads(file.read_text()) for file in sorted(sweep.glob("*/status.json"))]


def processes(sweep: Path) -> list[int]:
    records = [JobRecord.read(folder) for folder in sorted(sweep.iterdir()) if folder.is_dir()]
    return [record.process.pid for record in records if record is not None and record.process is not None]


def all_end(pids: list[int]) -> bool:
    """Return whether processes, which are not children of this one, end within a minute."""
    for _ in range(600):
        if not any(Path(f"/proc/{pid}").exists() for pid in pids):
            return True
        time.sleep(0.1)
    return False


@pytest.mark.usefixtures("joblib")
def test_a_job_with_nan_does_not_affect_others(start: Start, sweep: Path) -> None:
    """Row 25: the others finish, in the same process and in parallel, with processes that load images."""
    rates = "training.optimizer.learning_rate=1e30,1e-3,2e-3"
    run = start(*JOBLIB, rates, "training.optimizer.gradient_clip_norm=null", "data.loading.num_workers=1")
    assert run.wait(300) == 1
    assert sorted(job["state"] for job in jobs_of(sweep)) == ["failed", "finished", "finished"]
    (failed,) = [job for job in jobs_of(sweep) if job["state"] == "failed"]
    assert "is NaN or infinite" in failed["why"]
    assert "combined_loader" not in run.err


@pytest.mark.usefixtures("joblib")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_after_a_signal_jobs_in_other_processes_save(
    start: Start, sweep: Path, number: signal.Signals, code: int
) -> None:
    """Row 25: Ctrl-C, which a terminal sends to all processes, and SIGTERM to the process of the sweep only."""
    run = start(*JOBLIB, FOR_EVER, "compute.seed=1,2,3")
    run.until(lambda: training(sweep, 2), 300)
    (run.signal_all if number == signal.SIGINT else run.signal)(number)
    assert run.wait(300) == code, run.err
    assert "Traceback" not in run.err
    assert states(sweep) == {"seed-1": "interrupted", "seed-2": "interrupted"}
    assert [status["state"] for status in statuses(sweep)] == ["stopped", "stopped"]
    for status, folder in zip(statuses(sweep), ("seed-1", "seed-2"), strict=True):
        assert (sweep / folder / "checkpoints" / f"step_{status['step']:08}.manifest.json").is_file()
    assert "0 of 2 jobs finished (jobs that have not started are not counted)" in run.err
    assert not list(sweep.glob(".stop-*"))


@pytest.mark.usefixtures("joblib")
def test_jobs_that_died_with_a_killed_process_are_resumed(start: Start, sweep: Path) -> None:
    """Row 25: as when memory runs out; joblib then ends the processes of the other jobs, too."""
    run = start(*JOBLIB, FOR_EVER, "compute.seed=1,2,3")
    run.until(lambda: training(sweep, 2), 300)
    os.kill(processes(sweep)[0], signal.SIGKILL)
    assert run.wait(300) == 1, run.err
    assert states(sweep) == {"seed-1": "died", "seed-2": "died"}
    assert "0 of 2 jobs finished (jobs that have not started are not counted)" in run.err
    assert "The same command resumes all jobs" in run.err
    assert "run the missing jobs with" in run.err
    assert "Traceback" not in run.err
    again = start(*JOBLIB, FOR_EVER, "compute.seed=1,2,3")
    again.until(lambda: again.err.count("resuming from") == 2, 300)
    again.signal(signal.SIGTERM)
    assert again.wait(300) == 143, again.err
    assert states(sweep) == {"seed-1": "interrupted", "seed-2": "interrupted"}


@pytest.mark.usefixtures("joblib")
def test_after_a_kill_the_same_command_waits_for_running_jobs(start: Start, sweep: Path) -> None:
    """Row 25: after kill -9 of the sweep the processes of its jobs remain, and end with their job."""
    command = (*JOBLIB, "training.epochs=8", "compute.seed=1,2")
    run = start(*command)
    run.until(lambda: training(sweep, 2), 300)
    left_behind = processes(sweep)
    run.signal(signal.SIGKILL)
    run.wait()
    again = start(*command)
    assert again.wait(300) == 0, again.err
    assert states(sweep) == {"seed-1": "finished", "seed-2": "finished"}
    assert "Error" not in again.err
    assert all_end(left_behind)


@pytest.mark.usefixtures("submitit")
def test_a_terminated_submitit_job_does_not_end_others(start: Start, sweep: Path) -> None:
    """Row 25: the other job finishes, and the sweep ends with its table and the code of the signal."""
    run = start(*SUBMITIT, "training.epochs=100000,2")
    run.until(lambda: (sweep / "epochs-100000" / "checkpoints" / "best.ckpt").exists(), 300)
    record = JobRecord.read(sweep / "epochs-100000")
    assert record is not None
    assert record.process is not None
    os.kill(record.process.pid, signal.SIGTERM)
    assert run.wait(300) == 143, run.err
    assert states(sweep) == {"epochs-100000": "interrupted", "epochs-2": "finished"}
    assert "Traceback" not in run.err


class TestSearch:
    @pytest.fixture(autouse=True)
    def installed(self, optuna: None) -> None:
        pass

    @pytest.mark.parametrize("stored", [(), ("hydra.sweeper.storage=sqlite:///sweep/study.db",)])
    def test_is_resumed_after_a_kill(self, start: Start, sweep: Path, stored: tuple[str, ...]) -> None:
        """Row 25: complete trials keep their values, the interrupted one is resumed, and no more are added."""
        run = start(*SEARCH, *stored, env=Program.paused_at("metrics.jsonl", 17))  # in the second trial's second epoch
        run.wait_until_paused()
        run.signal(signal.SIGKILL)
        run.wait()
        started = {path.name for path in sweep.glob("decay-*")}
        (second,) = started - {path.parent.name for path in sweep.glob("*/summary.json")}
        again = start(*SEARCH, *stored)
        assert again.wait(300) == 0, again.err
        assert f"resuming from sweep/{second}/checkpoints" in again.err
        jobs = jobs_of(sweep)
        assert len(jobs) == 3
        assert {job["state"] for job in jobs} == {"finished"}
        assert started < {job["folder"] for job in jobs}
        results = (sweep / "optimization_results.yaml").read_text()
        assert f"best_value: {min(job['best_value'] for job in jobs)}" in results

    def test_failure_of_a_trial_is_reported(self, start: Start, sweep: Path) -> None:
        run = start(*SEARCH, "training.validation.enabled=false")
        assert run.wait(300) == 1
        assert "training.validation.enabled must be true with hydra/sweeper=optuna" in run.err
        assert "float-castable" not in run.err + run.out
        assert "with hydra.sweeper.max_failure_rate=1 it continues" in run.err
