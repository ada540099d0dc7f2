"""Jobs of a sweep: return value, waiting for another process, and signals. Without training."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hydra import compose
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

import diffusion_lab.cli.compose  # noqa: F401  # whose resolvers name the folders
from diffusion_lab.cli.hydra_app import initialized_hydra
from diffusion_lab.runs.folder import RunStopped
from diffusion_lab.runtime.exit_codes import EXIT_CODES
from diffusion_lab.sweeps import job_lock, jobs, signals
from diffusion_lab.sweeps.job_record import FINISHED, INTERRUPTED, RUNNING, JobProcess, JobRecord
from diffusion_lab.sweeps.jobs import BASIC_LAUNCHER, SweepCallback, run_job
from diffusion_lab.sweeps.signals import JobInterrupted, SweepSignals, SweepStopped
from tests.config.conftest import CONF
from tests.sweeps.test_job_record import another_process_has, process

OPTUNA = "hydra_plugins.hydra_optuna_sweeper.optuna_sweeper.OptunaSweeper"
Job = Callable[..., DictConfig]


@pytest.fixture(autouse=True)
def undisturbed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Restore signal handlers and the state of the sweep afterwards."""
    monkeypatch.setattr(SweepCallback, "folder", None)
    monkeypatch.setattr(SweepCallback, "signals", None)
    before = {number: signal.getsignal(number) for number in EXIT_CODES}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    """Set Hydra's state to that of a job of a sweep in ``tmp_path``; return its composed settings."""

    def begin(*overrides: str, script: str = "train", sweeper: str | None = None) -> DictConfig:
        with initialized_hydra("app", CONF):
            composed = compose(script, list(overrides), return_hydra_config=True)
        with open_dict(composed):
            composed.hydra.mode = "MULTIRUN"
            composed.hydra.job.num = 0
            composed.hydra.runtime.choices = {}
            composed.hydra.sweep.dir = str(tmp_path)
            composed.hydra.sweeper._target_ = sweeper or composed.hydra.sweeper._target_
        HydraConfig.instance().set_config(composed)
        tree = OmegaConf.masked_copy(composed, [key for key in composed if key != "hydra"])
        (tmp_path / composed.hydra.sweep.subdir).mkdir(exist_ok=True)
        return tree

    yield begin
    HydraConfig.instance().cfg = None


def run_with(value: float) -> Callable[[DictConfig], None]:
    """Return a function that finishes a run with a best value."""

    def run(composed: DictConfig) -> None:
        folder = Path(composed.output.base_dir)
        (folder / "summary.json").write_text(json.dumps({"metric": "val/loss", "best_value": value}))

    return run


def never(composed: DictConfig) -> None:
    pytest.fail("this job is not to be run")


def record(folder: Path) -> JobRecord:
    found = JobRecord.read(folder)
    assert found is not None
    return found


def receive(number: signal.Signals) -> None:
    """Send this process a signal and wait for it: another thread may receive it first."""
    os.kill(os.getpid(), number)
    for _ in range(6000):
        time.sleep(0.01)


class TestValue:
    def test_a_job_returns_its_best_value(self, job: Job) -> None:
        assert run_job(run_with(0.25), job("compute.seed=1")) == 0.25

    def test_a_skipped_job_returns_its_value(self, job: Job, capsys: pytest.CaptureFixture[str]) -> None:
        run_job(run_with(0.1 + 0.2), job("compute.seed=1"))
        assert run_job(never, job("compute.seed=1")) == 0.1 + 0.2
        assert "seed-1: already finished, skipped" in capsys.readouterr().err

    def test_a_job_finished_in_another_folder_is_skipped(self, job: Job, tmp_path: Path) -> None:
        run_job(run_with(0.25), job("compute.seed=1"))
        (tmp_path / "seed-1").rename(tmp_path / "of_another_name")
        assert run_job(never, job("compute.seed=1")) == 0.25
        assert [path.name for path in tmp_path.iterdir()] == ["of_another_name"]

    def test_a_job_is_no_preview(self, job: Job, tmp_path: Path) -> None:
        for setting in ("preview=true", "tune.batch_size=true"):  # from a file of the user's, say
            with pytest.raises(ValueError, match="leave out -m"):
                run_job(never, job("compute.seed=1", setting))
        assert not list(tmp_path.rglob("job.json"))

    def test_records_of_versions_without_previews_are_the_same(self, job: Job, tmp_path: Path) -> None:
        run_job(run_with(0.25), job("compute.seed=1"))
        assert not {"preview", "tune", "output"} & record(tmp_path / "seed-1").settings.keys()

    def test_a_search_needs_validation(self, job: Job) -> None:
        composed = job("training.validation.enabled=false", "training.scheduler.type=null", sweeper=OPTUNA)
        with pytest.raises(ValueError, match=r"training\.validation\.enabled must be true"):
            run_job(never, composed)

    def test_a_search_needs_training(self, job: Job) -> None:
        with pytest.raises(ValueError, match=r"only train\.py has one"):
            run_job(never, job("ckpt=somewhere", script="sample", sweeper=OPTUNA))


class TestOtherSettings:
    def interrupted(self, job: Job, tmp_path: Path, saved: bool) -> Path:
        """Create a stopped job, with or without a checkpoint."""

        def run(composed: DictConfig) -> None:
            if saved:
                checkpoints = Path(composed.output.base_dir) / "checkpoints"
                checkpoints.mkdir()
                (checkpoints / "step_00000001.ckpt").touch()
            raise SweepStopped(signal.SIGTERM)

        with pytest.raises((SweepStopped, JobInterrupted)):
            run_job(run, job("compute.seed=1"))
        assert record(tmp_path / "seed-1").state == INTERRUPTED
        return tmp_path / "seed-1"

    def test_checkpoints_of_an_interrupted_job_are_not_overwritten(self, job: Job, tmp_path: Path) -> None:
        folder = self.interrupted(job, tmp_path, saved=True)
        changed = job("compute.seed=1")
        changed.training.epochs = 3
        with pytest.raises(ValueError, match=r"the unfinished job .* had other settings .*training\.epochs"):
            run_job(never, changed)
        assert (folder / "checkpoints" / "step_00000001.ckpt").is_file()
        refused = record(folder).refused()
        assert refused is not None
        assert "training.epochs" in str(refused.why)

    def test_an_interrupted_job_without_checkpoints_restarts(self, job: Job, tmp_path: Path) -> None:
        self.interrupted(job, tmp_path, saved=False)
        changed = job("compute.seed=1")
        changed.training.epochs = 3
        assert run_job(run_with(0.5), changed) == 0.5


class TestOtherProcess:
    def test_a_job_running_in_another_process_is_waited_for(
        self, job: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As after kill -9 of a sweep whose launcher's processes continue, or with two commands on one folder."""
        composed = job("compute.seed=1")
        run_job(run_with(0.25), composed)
        folder = tmp_path / "seed-1"
        done = record(folder)
        with another_process_has(folder) as holder:
            replace(done, state=RUNNING, process=JobProcess("here", holder.pid), best_value=None).write(folder)

            def finish(seconds: float) -> None:
                assert seconds > 0
                done.write(folder)
                holder.kill()
                holder.wait()

            monkeypatch.setattr(jobs.time, "sleep", finish)  # that is, while it is waited for
            assert run_job(never, job("compute.seed=1")) == 0.25
        message = capsys.readouterr().err
        assert message.count(f"seed-1: process {holder.pid} on here is already running this job") == 1
        assert f"`kill {holder.pid}`" in message

    def test_a_job_that_dies_meanwhile_is_resumed(
        self, job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        composed = job("compute.seed=1")
        run_job(run_with(0.25), composed)
        folder = tmp_path / "seed-1"
        (folder / "checkpoints").mkdir()
        (folder / "checkpoints" / "step_00000001.ckpt").touch()
        resumed = []

        def run(composed: DictConfig) -> None:
            resumed.append(composed.training.resume.checkpoint)
            run_with(0.125)(composed)

        with another_process_has(folder) as holder:
            replace(record(folder), state=RUNNING, process=JobProcess("here", holder.pid)).write(folder)

            def die(seconds: float) -> None:
                holder.kill()
                holder.wait()

            monkeypatch.setattr(jobs.time, "sleep", die)
            assert run_job(run, job("compute.seed=1")) == 0.125
        assert resumed == ["auto"]

    def test_a_job_of_unknown_state_is_refused(self, job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(job_lock, "take", lambda folder: job_lock.Lock.UNSUPPORTED)
        monkeypatch.setattr("diffusion_lab.sweeps.job_record.is_taken", lambda folder: None)
        composed = job("compute.seed=1")
        folder = tmp_path / "seed-1"
        JobRecord((), RUNNING, {}, JobProcess("elsewhere", 7, "another start")).write(folder)
        with pytest.raises(ValueError, match=r"process 7 on elsewhere.*remove .*seed-1/job\.json"):
            run_job(never, composed)


class TestStopped:
    """In a process of a launcher, which would treat an exit as a crash."""

    @pytest.mark.parametrize("number", EXIT_CODES)
    def test_a_signal_interrupts_the_job_and_not_its_process(
        self, job: Job, tmp_path: Path, number: signal.Signals
    ) -> None:
        def run(composed: DictConfig) -> None:
            os.kill(os.getpid(), number)

        with pytest.raises(JobInterrupted, match=number.name) as stopped:
            run_job(run, job("compute.seed=1"))
        assert stopped.value.code == EXIT_CODES[number]
        found = record(tmp_path / "seed-1")
        assert (found.state, found.why) == (INTERRUPTED, f"asked to by {number.name}")
        os.kill(os.getpid(), number)  # between two jobs: nothing

    def test_a_run_stopped_after_saving_interrupts_the_job(self, job: Job) -> None:
        def run(composed: DictConfig) -> None:
            raise RunStopped("asked to by SIGTERM", 143, step=8)

        with pytest.raises(JobInterrupted) as stopped:
            run_job(run, job("compute.seed=1"))
        assert pickle.loads(pickle.dumps(stopped.value)).code == 143

    def test_an_exit_for_another_reason_is_raised(self, job: Job) -> None:
        """submitit exits like this after it has requeued the job."""

        def run(composed: DictConfig) -> None:
            raise SystemExit(144)

        with pytest.raises(SystemExit) as left:
            run_job(run, job("compute.seed=1"))
        assert left.value.code == 144

    def test_no_job_starts_after_the_sweep_stops(self, job: Job, tmp_path: Path) -> None:
        sweep = SweepSignals(tmp_path, launches=True)
        sweep.listen()
        try:
            with pytest.raises(SweepStopped):
                receive(signal.SIGTERM)
            with pytest.raises(JobInterrupted, match="the sweep was asked to stop"):
                run_job(never, job("compute.seed=1"))
        finally:
            sweep.close()
        assert not list(tmp_path.glob(".stop-*"))
        assert run_job(run_with(0.5), job("compute.seed=1")) == 0.5  # the same command again

    def test_stop_files_are_removed_by_the_next_command(self, job: Job, tmp_path: Path) -> None:
        ended = subprocess.Popen([sys.executable, "-c", ""])
        ended.wait()
        first = SweepSignals(tmp_path, launches=True, outlived=True)
        first.sweep = f"{ended.pid}-abc"
        first.listen()
        try:
            with pytest.raises(SweepStopped):
                receive(signal.SIGTERM)
        finally:
            first.close()
        assert [file.name for file in tmp_path.glob(".stop-*")] == [f".stop-{ended.pid}-abc"]
        (tmp_path / ".stop-of-mine").touch()
        second = SweepSignals(tmp_path, launches=False)
        second.listen()
        second.close()
        assert [file.name for file in tmp_path.glob(".stop-*")] == [".stop-of-mine"]

    def test_errors_that_cannot_be_pickled_are_converted(self, job: Job) -> None:
        class Local(ValueError):
            pass

        def run(composed: DictConfig) -> None:
            raise Local("a fault")

        with pytest.raises(ValueError, match="Local: a fault") as caught:
            run_job(run, job("compute.seed=1"))
        assert str(pickle.loads(pickle.dumps(caught.value))) == "Local: a fault"


class TestAbandoned:
    """A joblib worker whose sweep was killed: nothing would ever receive its result."""

    @pytest.fixture
    def left(self, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        codes: list[int] = []
        monkeypatch.setattr(os, "_exit", codes.append)
        monkeypatch.setenv(signals.SWEEP, "12345-abc")
        return codes

    def test_an_abandoned_process_exits_after_its_job(
        self, job: Job, tmp_path: Path, left: list[int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def run(composed: DictConfig) -> None:
            run_with(0.25)(composed)
            monkeypatch.setattr(signals, "PARENT", 12345)  # and no longer the parent

        run_job(run, job("compute.seed=1"))
        assert left == [0]
        assert record(tmp_path / "seed-1").state == FINISHED

    def test_a_process_not_started_by_the_sweep_continues(self, job: Job, left: list[int]) -> None:
        """As with submitit, whose processes may outlive the sweep."""
        run_job(run_with(0.25), job("compute.seed=1"))
        assert left == []


class TestSignalsOfTheSweep:
    def test_between_jobs_of_this_process_a_signal_ends_it(self, tmp_path: Path) -> None:
        sweep = SweepSignals(tmp_path, launches=False)
        before = signal.getsignal(signal.SIGINT)
        sweep.listen()
        try:
            with pytest.raises(SweepStopped) as stopped:
                os.kill(os.getpid(), signal.SIGINT)
        finally:
            sweep.close()
        assert stopped.value.code == 130
        assert signal.getsignal(signal.SIGINT) is before

    def test_a_signal_before_the_folder_is_made_ends_the_sweep(self, tmp_path: Path) -> None:
        sweep = SweepSignals(tmp_path / "not yet", launches=True)
        sweep.listen()
        try:
            with pytest.raises(SweepStopped):
                receive(signal.SIGTERM)
        finally:
            sweep.close()

    def test_running_jobs_are_asked_to_stop_and_waited_for(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """A job of the sweep in another process saves after SIGTERM; a job of another command continues."""
        sweep = SweepSignals(tmp_path, launches=True)
        folders = [tmp_path / name for name in ("ours", "theirs")]
        for folder in folders:
            folder.mkdir()
        with another_process_has(folders[0]) as ours, another_process_has(folders[1]) as theirs:
            for folder, holder, owner in zip(folders, (ours, theirs), (sweep.sweep, "another"), strict=True):
                JobRecord((), RUNNING, {}, process(holder.pid), owner).write(folder)
            collector = threading.Thread(target=ours.wait)
            collector.start()
            sweep.listen()
            try:
                with pytest.raises(SweepStopped):
                    receive(signal.SIGTERM)
            finally:
                sweep.close()
            collector.join(30)
            assert ours.returncode == -signal.SIGTERM
            assert theirs.poll() is None
            message = capfd.readouterr().err
            assert "SIGTERM: the running jobs finish their step and save\n" in message
            assert f"`kill {theirs.pid}` there lets it save and stop." in message
            assert f"`kill {ours.pid}`" not in message

    def test_jobs_of_another_command_are_not_reported_as_saving(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """After kill -9 of a sweep, the same command waits for its jobs, and Ctrl-C only ends the waiting."""
        sweep = SweepSignals(tmp_path, launches=True)
        (tmp_path / "theirs").mkdir()
        with another_process_has(tmp_path / "theirs") as theirs:
            JobRecord((), RUNNING, {}, process(theirs.pid), "another").write(tmp_path / "theirs")
            sweep.listen()
            try:
                with pytest.raises(SweepStopped):
                    receive(signal.SIGINT)
            finally:
                sweep.close()
            assert theirs.poll() is None
            message = capfd.readouterr().err
        assert "SIGINT: no job of this command is running\n" in message
        assert f"`kill {theirs.pid}` there lets it save and stop." in message
        assert "finish their step" not in message

    def test_processes_of_a_launcher_survive_ctrl_c_before_their_job(self, tmp_path: Path) -> None:
        sweep = SweepSignals(tmp_path, launches=True)
        sweep.listen()
        try:
            assert set(EXIT_CODES) <= signal.pthread_sigmask(signal.SIG_BLOCK, ())
        finally:
            sweep.close()
        assert not set(EXIT_CODES) & signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_a_repeated_key_varies_if_its_last_value_does() -> None:
    typed = ["training.epochs=1", "training.epochs=2,3", "compute.seed=1,2", "compute.seed=4", "data=digits"]
    with initialized_hydra("app", CONF):
        config = compose("train", return_hydra_config=True)
    with open_dict(config):
        config.hydra.overrides.task = typed
        config.hydra.sweep.dir = "somewhere"
    try:
        SweepCallback().on_multirun_start(config)
    finally:
        assert SweepCallback.signals is not None
        SweepCallback.signals.close()
    (excluded,) = config.hydra.overrides.hydra
    assert excluded == "hydra.job.config.override_dirname.exclude_keys=['compute.seed','data']"


def test_the_basic_launcher_is_the_one_that_hydra_has() -> None:
    with initialized_hydra("app", CONF):
        composed = compose("train", return_hydra_config=True)
    assert composed.hydra.launcher._target_ == BASIC_LAUNCHER
    assert composed.hydra.sweeper._target_ == jobs.BASIC_SWEEPER
    assert FINISHED == "finished"
