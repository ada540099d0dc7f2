from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path

import numpy as np
import pytest

from diffusion_lab.checkpoint import find_checkpoint, read_checkpoint
from diffusion_lab.data.source import IndexArray, PixelArray
from diffusion_lab.runs.folder import RunStopped
from diffusion_lab.runtime.exit_codes import EXIT_CODES
from diffusion_lab.training.signals import handle_signals
from tests.training.tiny import TinySource, tiny_run


@pytest.mark.parametrize(("number", "code"), EXIT_CODES.items())
def test_before_training_a_signal_ends_the_run_at_once(number: signal.Signals, code: int) -> None:
    before = signal.getsignal(number)
    with pytest.raises(RunStopped) as stopped, handle_signals():
        os.kill(os.getpid(), number)
    assert stopped.value.code == code
    assert signal.getsignal(number) is before


@pytest.mark.parametrize(("number", "code"), EXIT_CODES.items())
def test_in_training_the_first_signal_is_recorded(number: signal.Signals, code: int) -> None:
    with handle_signals() as stop:
        stop.begin()
        os.kill(os.getpid(), number)
        assert stop.received == number
        assert stop.stopped(3).code == code


@pytest.mark.parametrize(("is_terminal", "end"), [(False, "\n"), (True, "\n\n")])
def test_the_message_is_not_drawn_over_by_the_progress(
    is_terminal: bool, end: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "isatty", lambda descriptor: is_terminal)
    with handle_signals() as stop:
        stop.begin()
        os.kill(os.getpid(), signal.SIGTERM)
    assert capfd.readouterr().err == f"\nSIGTERM: finishing this step, then saving{end}"


def test_a_second_signal_is_ignored_except_ctrl_c() -> None:
    with handle_signals() as stop:
        stop.begin()
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGUSR1)
        assert stop.received == signal.SIGTERM
        with pytest.raises(RunStopped) as stopped:
            os.kill(os.getpid(), signal.SIGINT)
    assert stopped.value.code == 130


def test_in_another_thread_signals_are_left_alone() -> None:
    before = {number: signal.getsignal(number) for number in EXIT_CODES}
    seen = []

    def job() -> None:
        with handle_signals() as stop:
            stop.begin()
            seen.append({number: signal.getsignal(number) for number in EXIT_CODES})

    thread = threading.Thread(target=job)
    thread.start()
    thread.join()
    assert seen == [before]


class SignalInValidation(TinySource):
    """Sends a signal to the process during validation."""

    number = signal.SIGHUP

    def load_batch(self, indices: IndexArray, rng: np.random.Generator | None) -> PixelArray:
        if rng is None:  # validation leaves nothing to chance
            os.kill(os.getpid(), self.number)
        return super().load_batch(indices, rng)


CHANGES = {"data.type": "tests.training.test_signals.SignalInValidation", "training.epochs": 3}


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR2, signal.SIGXCPU])
def test_run_saves_and_exits_with_the_right_status(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SignalInValidation, "number", number)
    with pytest.raises(RunStopped) as stopped:
        tiny_run(tmp_path / "run", CHANGES)
    assert stopped.value.code == EXIT_CODES[number]
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert (status["state"], status["why"], status["step"]) == ("stopped", f"asked to by {number.name}", 3)
    assert read_checkpoint(find_checkpoint(tmp_path / "run", "last")).step == 3


def test_nohup_outlives_its_terminal(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert tiny_run(tmp_path / "run", CHANGES).epochs == 3
    finally:
        signal.signal(signal.SIGHUP, before)


def test_signal_by_which_submitit_requeues_is_left_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def requeue(*_: object) -> None: ...

    monkeypatch.setattr(requeue, "__module__", "submitit.core.job_environment")
    before = signal.signal(signal.SIGUSR2, requeue)
    try:
        with handle_signals():
            assert signal.getsignal(signal.SIGUSR2) is requeue
    finally:
        signal.signal(signal.SIGUSR2, before)
