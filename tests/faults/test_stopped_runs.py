"""Runs that are stopped or fail, and are resumed."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from diffusion_lab.checkpoint import find_checkpoint, read_checkpoint
from tests.faults.conftest import TINY, Start
from tests.programs import Launcher, Program
from tests.sameness import assert_equal
from tests.training.tiny import saved

pytestmark = [pytest.mark.faults, pytest.mark.integration]

AUTO = (
    *TINY,
    "training.epochs=3",
    "training.visualization.interval=1",
    "output.base_dir=run",
    "training.resume.enabled=true",
    "training.resume.checkpoint=auto",
)
"""The command to start and to resume a run; four steps per epoch."""


@pytest.fixture(scope="module")
def undisturbed(launcher: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an uninterrupted run, next to its output."""
    run_folder = tmp_path_factory.mktemp("undisturbed")
    run = Program(launcher, ("train.py", *AUTO), run_folder, {})
    assert run.wait() == 0, run.err
    (run_folder / "output").write_text(run.err)
    return run_folder / "run"


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    return tmp_path / "work" / "run"


def metrics(run: Path) -> list[dict[str, Any]]:
    file = run / "logs" / "metrics.jsonl"
    lines = file.read_text().splitlines() if file.is_file() else []
    return [{key: value for key, value in json.loads(line).items() if key != "seconds"} for line in lines]


def status(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "status.json").read_text())
    return content


def assert_same_run(actual: Path, expected: Path) -> None:
    one, other = (saved(find_checkpoint(run, "last")) for run in (actual, expected))
    for part in ("state_dict", "optimizer_states", "lr_schedulers"):
        assert_equal(one[part], other[part], part)
    assert metrics(actual) == metrics(expected)
    for picture in (expected / "samples").glob("*.png"):
        assert (actual / "samples" / picture.name).read_bytes() == picture.read_bytes()


def stopped_at(start: Start, run_folder: Path, lines: int, number: signal.Signals, *more: str) -> Program:
    """Start a run that gets a signal when its metrics have ``lines`` lines."""
    run = paused_at(start, lines, *more)
    assert len(metrics(run_folder)) == lines
    run.signal(number)
    run.go_on()
    return run


def paused_at(start: Start, lines: int, *more: str) -> Program:
    """Start a run that has written ``lines`` lines of metrics and pauses before the next."""
    run = start("train.py", *AUTO, *more, env=Program.paused_at("metrics.jsonl", lines + 1))
    run.wait_until_paused()
    return run


@pytest.mark.parametrize(("number", "code", "lines"), [("SIGTERM", 143, 3), ("SIGINT", 130, 7)])
def test_a_stopped_and_resumed_run_equals_an_uninterrupted_one(
    number: str, code: int, lines: int, start: Start, run_folder: Path, undisturbed: Path
) -> None:
    """Row 8: SIGTERM (a preempted node) in training saves, exits 143; resumed by the same command, bitwise equal."""
    run = stopped_at(start, run_folder, lines, signal.Signals[number])
    assert run.wait() == code, run.err
    state = status(run_folder)
    assert (state["state"], state["why"]) == ("stopped", f"asked to by {number}")
    assert state["step"] == saved(find_checkpoint(run_folder, "last"))["global_step"]
    assert "training.resume.checkpoint=auto" in run.err
    again = start("train.py", *AUTO)
    assert again.wait() == 0, again.err
    assert f"resuming from {find_checkpoint(run_folder, 'last').parent.relative_to(run_folder.parent)}" in again.err
    assert_same_run(run_folder, undisturbed)
    assert status(run_folder)["state"] == "finished"


@pytest.mark.parametrize(("number", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_to_all_processes_does_not_stop_the_workers(
    number: str, code: int, start: Start, run_folder: Path, undisturbed: Path
) -> None:
    """Row 8: as sent by Slurm's scancel and a terminal's Ctrl-C, also to the processes that load images."""
    run = paused_at(start, 3, "data.loading.num_workers=2")
    run.signal_all(signal.Signals[number])
    run.go_on()
    assert run.wait() == code, run.err
    assert status(run_folder)["state"] == "stopped"
    again = start("train.py", *AUTO, "data.loading.num_workers=2")
    assert again.wait() == 0, again.err
    assert_same_run(run_folder, undisturbed)


def test_a_run_of_a_settings_file_is_stopped(start: Start, run_folder: Path, undisturbed: Path) -> None:
    """Row 8: with ``python -m diffusion_lab``."""
    longer = ("output.base_dir=run", "training.epochs=100", "training.visualization.interval=100")
    pause = Program.paused_at("metrics.jsonl", 4)
    run = start("-m", "diffusion_lab", str(undisturbed / "config.yaml"), *longer, env=pause)
    run.wait_until_paused()
    run.signal(signal.SIGTERM)
    run.go_on()
    assert run.wait() == 143, run.err
    assert read_checkpoint(find_checkpoint(run_folder, "last")).step == status(run_folder)["step"]


def test_a_stopped_sweep_starts_no_further_job(start: Start, tmp_path: Path) -> None:
    """Row 8: in a sweep."""
    jobs = ("compute.seed=1,2", "hydra.sweep.dir=sweep")
    run = start("train.py", "-m", *TINY, "training.epochs=100", *jobs, env=Program.paused_at("metrics.jsonl", 4))
    sweep = tmp_path / "work" / "sweep"
    run.wait_until_paused()
    assert len(list(sweep.rglob("metrics.jsonl"))) == 1
    run.signal(signal.SIGTERM)
    run.go_on()
    assert run.wait() == 143, run.err
    assert len(list(sweep.rglob("status.json"))) == 1


def test_terminated_in_validation(start: Start, run_folder: Path, undisturbed: Path) -> None:
    """Row 9: SIGTERM in validation; raw and EMA weights are not swapped in what is saved."""
    own = ("data.type=tests.faults.own_parts.TerminatedInValidation",)
    run = start("train.py", *AUTO, *own)
    assert run.wait() == 143, run.err
    assert read_checkpoint(find_checkpoint(run_folder, "last")).epochs_done == 1
    again = start("train.py", *AUTO, *own)
    assert again.wait() == 0, again.err
    assert_same_run(run_folder, undisturbed)


def test_failed_while_sampling(start: Start, run_folder: Path, undisturbed: Path) -> None:
    """Row 9: an exception while sampling; the end of the epoch before is saved, and the run is resumed."""
    own = ("sampler.type=tests.faults.own_parts.FailingSampler",)
    run = start("train.py", *AUTO, *own)
    assert run.wait() == 2
    assert "out of luck while sampling" in status(run_folder)["why"]
    assert read_checkpoint(find_checkpoint(run_folder, "last")).epochs_done == 2
    again = start("train.py", *AUTO, *own)
    assert again.wait() == 0, again.err
    assert_same_run(run_folder, undisturbed)


def test_interrupted_again_while_saving(start: Start, run_folder: Path) -> None:
    """Row 10: Ctrl-C, then a second one while saving; the previous checkpoint is still valid."""
    run = paused_at(start, 8, "training.epochs=50", "training.optimizer.type=tests.faults.own_parts.PausedSaving")
    (run_folder.parent / "pause").touch()
    run.signal(signal.SIGINT)
    run.go_on()
    run.until((run_folder.parent / "saving").exists)
    run.wait_until_paused()
    run.signal(signal.SIGINT)
    run.go_on()
    assert run.wait() == 130, run.err
    last = read_checkpoint(find_checkpoint(run_folder, "last"))
    assert last.step is not None
    assert last.step % 4 == 0  # not the one that was being saved in the middle of an epoch, unless at its end
    assert not list(run_folder.rglob("*.partial"))


def test_another_number_of_workers(start: Start, run_folder: Path, undisturbed: Path) -> None:
    """Row 11: resumed without the two workers it started with: same order of samples, same weights."""
    run = stopped_at(start, run_folder, 3, signal.SIGUSR1, "data.loading.num_workers=2")
    assert run.wait() == 85, run.err
    again = start("train.py", *AUTO, "data.loading.num_workers=0")
    assert again.wait() == 0, again.err
    assert_same_run(run_folder, undisturbed)


@pytest.fixture
def halfway(start: Start, run_folder: Path) -> Path:
    """A run stopped in the middle of an epoch."""
    run = stopped_at(start, run_folder, 1, signal.SIGTERM)
    assert run.wait() == 143, run.err
    return run_folder


def test_another_batch_size(start: Start, halfway: Path) -> None:
    """Row 12: continues with the right sample and prints one line about it, or is refused with the reason."""
    before = {file: file.stat().st_mtime_ns for file in halfway.rglob("*")}
    step = status(halfway)["step"]
    refused = start("train.py", *AUTO, "data.loading.batch_size=7")
    assert refused.wait() == 2
    assert f"must divide the {300 * step} images" in refused.err
    assert {file: file.stat().st_mtime_ns for file in halfway.rglob("*")} == before
    run = start("train.py", *AUTO, "data.loading.batch_size=150", "training.epochs=1")
    assert run.wait() == 0, run.err
    assert f"was 300 and is 150: epoch 1 continues with its image {300 * step + 1}" in run.err
    batches = (1293 - 300 * step) // 150  # of the digits to train on, without a last batch that is not full
    assert saved(find_checkpoint(halfway, "last"))["global_step"] == step + batches


def test_another_architecture(start: Start, halfway: Path) -> None:
    """Row 13: the differing keys are listed, nothing is loaded partially."""
    before = {file: file.stat().st_mtime_ns for file in halfway.rglob("*")}
    run = start("train.py", *AUTO, "model.architecture.model_channels=16", "model.diffusion.num_timesteps=30")
    assert run.wait() == 2
    assert "model.architecture.model_channels must be the checkpoint's value, 8, got 16" in run.err
    assert "model.diffusion.num_timesteps must be the checkpoint's value, 20, got 30" in run.err
    assert "weights of another architecture" in run.err
    assert {file: file.stat().st_mtime_ns for file in halfway.rglob("*")} == before


def test_finished_run(start: Start, undisturbed: Path) -> None:
    """Row 14: "already complete", exit 0, nothing overwritten."""
    before = {file: (file.stat().st_mtime_ns, file.stat().st_size) for file in undisturbed.rglob("*")}
    for folder in ("run", "another"):
        options = ("output.base_dir=" + folder, f"training.resume.checkpoint={undisturbed}")
        run = start("train.py", *AUTO, *options[: 1 + (folder != "run")], folder=undisturbed.parent)
        assert run.wait() == 0, run.err
        assert "already complete" in run.err
    assert {file: (file.stat().st_mtime_ns, file.stat().st_size) for file in undisturbed.rglob("*")} == before
    assert not (undisturbed.parent / "another").exists()


def test_nothing_to_resume_from(undisturbed: Path) -> None:
    """Row 15: ``auto`` without a checkpoint starts fresh and says so."""
    output = (undisturbed.parent / "output").read_text()
    assert "training.resume.checkpoint=auto: run holds no checkpoint yet, so training starts fresh" in output


@pytest.mark.parametrize(("ruined_in", "found_in", "good"), [(7, 8, 4), (8, 8, 4)])
def test_weights_that_turn_nan(ruined_in: int, found_in: int, good: int, start: Start, run_folder: Path) -> None:
    """Row 16: stops with step and last good checkpoint, also in the last step of an epoch; no NaN is saved."""
    own = ("training.optimizer.type=tests.faults.own_parts.Ruinous", f"+training.optimizer.ruined_in={ruined_in}")
    run = start("train.py", *AUTO, *own)
    assert run.wait() == 2, run.err
    last = find_checkpoint(run_folder, "last")
    assert f"step {found_in}" in run.err
    assert f"the last good checkpoint is {last.relative_to(run_folder.parent)}" in run.err
    assert status(run_folder)["state"] == "failed"
    assert read_checkpoint(last).step == good
    for kept in (last, find_checkpoint(run_folder, "best")):
        assert all(bool(weight.isfinite().all()) for weight in saved(kept)["state_dict"].values())


def test_second_process_on_a_run_folder(start: Start, run_folder: Path) -> None:
    """Row 19: the second is refused, naming the first; when the first dies, the folder is free."""
    first = start("train.py", *AUTO, "training.epochs=1000", "data.loading.num_workers=1")
    first.until(lambda: len(metrics(run_folder)) >= 6)
    second = start("train.py", *AUTO)
    assert second.wait() == 2
    assert f"output.base_dir is in use by another process, got 'run' (process {first.pid} on " in second.err
    first.signal(signal.SIGKILL)
    first.wait()
    third = start("train.py", *AUTO)
    assert third.wait() == 0, third.err
