"""Signals during a sweep: they reach the jobs, and no process exits before its job has saved."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from diffusion_lab.console.terminal import printable
from diffusion_lab.runtime.exit_codes import EXIT_CODES, signals_to_handle
from diffusion_lab.sweeps.job_record import RUNNING, JobProcess, JobRecord

SWEEP = "DIFFUSION_LAB_SWEEP"
"""Environment variable by which the processes of a launcher know the command that they belong to."""

POLL_SECONDS = 0.1
PARENT = os.getppid()
"""Parent process."""


class SweepStopped(SystemExit):
    """The sweep, or a job that waits for another process, was stopped by a signal."""

    def __init__(self, number: int) -> None:
        super().__init__(EXIT_CODES[signal.Signals(number)])
        self.why = f"asked to by {signal.Signals(number).name}"


class JobInterrupted(Exception):
    """A job in a process other than the sweep's was stopped by a signal.

    A separate exception that can be passed between processes; launchers treat a ``SystemExit`` as a crash.

    Args:
        message: The job, and the reason.
        code: Exit code of the job if it ran as a program.
    """

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message, code)
        self.code = code

    def __str__(self) -> str:
        return str(self.args[0])


class SweepSignals:
    """Signal handlers in the process of a sweep.

    Between jobs that run in this process, a signal ends the sweep. Jobs in processes of a launcher are asked to stop,
    by SIGTERM and by a file that jobs which start later check, and waited for; a second Ctrl-C ends the sweep at once.

    Args:
        folder: Folder of the sweep.
        launches: Whether the jobs run in other processes.
        outlived: Whether the launcher may start a job after the sweep has ended, as submitit does.
    """

    def __init__(self, folder: Path, launches: bool, outlived: bool = False) -> None:
        self.folder, self.launches, self.outlived = folder, launches, outlived
        self.received: signal.Signals | None = None
        self.sweep = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._before: dict[signal.Signals, object] = {}
        self._closed = threading.Event()

    def listen(self) -> None:
        """Install the handlers, except for signals that are ignored or already handled by the program."""
        os.environ[SWEEP] = self.sweep
        _remove_stop_files(self.folder)
        if threading.current_thread() is not threading.main_thread():
            return
        for number in EXIT_CODES:
            handler = signal.getsignal(number)
            standard = handler in (signal.SIG_DFL, signal.default_int_handler)
            if standard or (self.launches and handler is not signal.SIG_IGN):
                self._before[number] = signal.signal(number, self._handle)
        if self.launches:
            # The launcher's processes inherit the mask. So a Ctrl-C, which the terminal sends to all of them, does not
            # end those that have no job yet, nor submitit's controllers, which would kill their jobs within a second.
            # In this process a thread started beforehand receives the signals, and Python runs the handler here.
            threading.Thread(target=self._closed.wait, daemon=True).start()
            signal.pthread_sigmask(signal.SIG_BLOCK, self._before)

    def close(self) -> None:
        """Restore the previous handlers."""
        os.environ.pop(SWEEP, None)
        if self.launches and self._before:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, self._before)
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._before.clear()
        self._closed.set()
        if not self.outlived:
            with contextlib.suppress(OSError):
                _stop_file(self.folder, self.sweep).unlink(missing_ok=True)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number != signal.SIGINT:
            return
        first, self.received = self.received is None, signal.Signals(number)
        if first and self.launches and self.folder.is_dir():  # otherwise no job has started
            self._stop_jobs()
        raise SweepStopped(number)

    def _stop_jobs(self) -> None:
        assert self.received is not None
        _stop_file(self.folder, self.sweep).touch()
        running, others = self._running()
        what = "the running jobs finish their step and save" if running else "no job of this command is running"
        _print_in_handler(f"\n{self.received.name}: {what}")
        for process in others:
            _print_in_handler(
                printable(
                    f"A job of another command continues: {process}. `kill {process.pid}` there lets it save and stop."
                )
            )
        signaled: set[int] = set()
        while True:
            processes, _ = self._running()
            local = [process.pid for process in processes if process.is_alive()]
            if not local:
                break
            for pid in set(local) - signaled:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
            signaled.update(local)
            time.sleep(POLL_SECONDS)
        if processes:
            remote = ", ".join(map(str, processes))
            _print_in_handler(printable(f"Jobs on other machines continue ({remote}): stop them there."))

    def _running(self) -> tuple[list[JobProcess], list[JobProcess]]:
        """Return the processes with jobs of this command, and those with jobs of other commands in the same folder."""
        records = [JobRecord.read(folder) for folder in self.folder.iterdir()]
        running = [record for record in records if record and record.state == RUNNING and record.process is not None]
        ours = [record.process for record in running if record.process and record.sweep == self.sweep]
        return ours, [record.process for record in running if record.process and record.sweep != self.sweep]


def _print_in_handler(text: str) -> None:
    """Print from a signal handler: not through sys.stderr, which may be in the middle of a write."""
    with contextlib.suppress(OSError):  # the reader may be gone
        os.write(2, f"{text}\n".encode())


def this_sweep() -> str | None:
    """Return the identifier of the sweep that this process works for, or None."""
    return os.environ.get(SWEEP)


def check_not_stopped(folder: Path) -> None:
    """Raise JobInterrupted if the sweep in ``folder``, to which this job belongs, was asked to stop."""
    sweep = this_sweep()
    if sweep and _stop_file(folder, sweep).exists():
        raise JobInterrupted("the sweep was asked to stop", EXIT_CODES[signal.SIGTERM])


def exit_if_abandoned() -> None:
    """Exit if this process is a child of the sweep's and that is gone, so that nothing receives its result.

    A joblib worker would wait forever and keep its memory.
    """
    sweep = this_sweep()
    if sweep and sweep.partition("-")[0] == str(PARENT) and os.getppid() != PARENT:
        print("the process of the sweep is gone, so this one exits after its job.", file=sys.stderr, flush=True)
        sys.stdout.flush()
        os._exit(0)


@contextlib.contextmanager
def stopping_by_signals() -> Iterator[None]:
    """Let signals stop the body, in a launcher's process; between two jobs they are ignored.

    A process that waits for its next job must not exit: launchers treat that as a crash and kill the other jobs.

    Raises:
        JobInterrupted: Instead of the ``SystemExit`` or ``KeyboardInterrupt`` of a signal.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handled = signals_to_handle()
    for number in handled:
        signal.signal(number, _stop)
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, EXIT_CODES)
        yield
    except (SystemExit, KeyboardInterrupt) as stop:
        why = why_stopped(stop)
        if why is None:
            raise  # not by a signal: launchers exit like this to requeue a job
        code = stop.code if isinstance(stop, SystemExit) else EXIT_CODES[signal.SIGINT]
        raise JobInterrupted(f"the job was stopped: {why}", int(code or 0)) from stop
    finally:
        for number in handled:
            signal.signal(number, _ignore)


def why_stopped(stop: BaseException) -> str | None:
    """Return which signal caused an exception, as a message; None for any other exception."""
    return "asked to by SIGINT" if isinstance(stop, KeyboardInterrupt) else getattr(stop, "why", None)


def _stop(number: int, frame: FrameType | None) -> None:
    raise SweepStopped(number)


def _ignore(number: int, frame: FrameType | None) -> None:
    """Do nothing: the next job checks the stop file."""


STOP = ".stop-"


def _stop_file(folder: Path, sweep: str) -> Path:
    return folder / f"{STOP}{sweep}"


def _remove_stop_files(folder: Path) -> None:
    """Remove the stop files of earlier commands, whose jobs may run again now."""
    for file in folder.glob(f"{STOP}*"):
        pid = file.name.removeprefix(STOP).partition("-")[0]
        if pid.isdecimal() and not Path(f"/proc/{pid}").exists():
            with contextlib.suppress(OSError):
                file.unlink()
