from __future__ import annotations

import os
import signal
import threading

import pytest

from diffusion_lab.exit_codes import EXIT_CODES
from diffusion_lab.run_folder import RunStopped
from diffusion_lab.training.signals import stoppable


@pytest.mark.parametrize(("number", "code"), EXIT_CODES.items())
def test_before_training_a_signal_ends_the_run_at_once(number: signal.Signals, code: int) -> None:
    before = signal.getsignal(number)
    with pytest.raises(RunStopped) as stopped, stoppable():
        os.kill(os.getpid(), number)
    assert stopped.value.code == code
    assert signal.getsignal(number) is before


@pytest.mark.parametrize(("number", "code"), EXIT_CODES.items())
def test_in_training_the_first_is_noted(number: signal.Signals, code: int) -> None:
    with stoppable() as stop:
        stop.begin()
        os.kill(os.getpid(), number)
        assert stop.received == number
        assert stop.stopped(3).code == code


def test_a_second_one_changes_nothing_but_ctrl_c_ends_it() -> None:
    with stoppable() as stop:
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
        with stoppable() as stop:
            stop.begin()
            seen.append({number: signal.getsignal(number) for number in EXIT_CODES})

    thread = threading.Thread(target=job)
    thread.start()
    thread.join()
    assert seen == [before]
