"""Stopping a sweep: a signal to its process reaches the jobs, and nobody leaves before they have saved."""

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

from diffusion_lab.config.job_record import RUNNING, JobProcess, JobRecord
from diffusion_lab.exit_codes import EXIT_CODES, signals_to_handle
from diffusion_lab.terminal import printable

SWEEP = "DIFFUSION_LAB_SWEEP"
"""Environment variable by which the processes of a launcher know the command whose jobs they do."""

POLL_SECONDS = 0.1
PARENT = os.getppid()
"""What started this process."""


class SweepStopped(SystemExit):
    """The sweep, or a job that waits for another process, ends because of a signal."""

    def __init__(self, number: int) -> None:
        super().__init__(EXIT_CODES[signal.Signals(number)])
        self.why = f"asked to by {signal.Signals(number).name}"


class JobInterrupted(Exception):
    """A job in another process than the sweep's was stopped by a signal.

    An exception of its own that travels between processes: of a ``SystemExit`` the launchers make a crash.

    Args:
        message: Which job, and why.
        code: The exit code that the job would have had as a program.
    """

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message, code)
        self.code = code

    def __str__(self) -> str:
        return str(self.args[0])


class SweepSignals:
    """Listens to the signals in the process of a sweep.

    Between jobs that run in this process a signal ends the sweep. Jobs in processes of a launcher are asked to stop, by
    SIGTERM and by a file that those which begin later look for, and waited for; a second Ctrl-C ends the sweep at once.

    Args:
        folder: That of the sweep.
        launches: Whether the jobs run in other processes.
        outlived: Whether the launcher may begin a job after the sweep has ended, as submitit does.
    """

    def __init__(self, folder: Path, launches: bool, outlived: bool = False) -> None:
        self.folder, self.launches, self.outlived = folder, launches, outlived
        self.received: signal.Signals | None = None
        self.sweep = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._before: dict[signal.Signals, object] = {}
        self._closed = threading.Event()

    def listen(self) -> None:
        """Take over the signals, but for those that are ignored and those that the program itself has a handler for."""
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
            # end those that have no job yet, nor submitit's controllers, which would kill theirs within a second.
            # Here a thread that was started before takes the signals, and Python runs the handler in this thread.
            threading.Thread(target=self._closed.wait, daemon=True).start()
            signal.pthread_sigmask(signal.SIG_BLOCK, self._before)

    def close(self) -> None:
        """Let the signals do what they did before."""
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
        if first and self.launches and self.folder.is_dir():  # else no job has begun
            self._stop_jobs()
        raise SweepStopped(number)

    def _stop_jobs(self) -> None:
        assert self.received is not None
        _stop_file(self.folder, self.sweep).touch()
        running, of_others = self._running()
        what = (
            "the jobs that are running finish their step and save" if running else "no job of this command is running"
        )
        _print_in_handler(f"\n{self.received.name}: {what}")
        for process in of_others:
            _print_in_handler(
                printable(
                    f"A job of another command goes on: {process}. `kill {process.pid}` there lets it save and stop."
                )
            )
        asked: set[int] = set()
        while True:
            processes, _ = self._running()
            here = [process.pid for process in processes if process.is_alive()]
            if not here:
                break
            for pid in set(here) - asked:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
            asked.update(here)
            time.sleep(POLL_SECONDS)
        if processes:
            elsewhere = ", ".join(map(str, processes))
            _print_in_handler(printable(f"Jobs on other machines go on ({elsewhere}): end them there."))

    def _running(self) -> tuple[list[JobProcess], list[JobProcess]]:
        """The processes that do jobs of this command, and those that do jobs of other commands in the same folder."""
        records = [JobRecord.read(folder) for folder in self.folder.iterdir()]
        running = [record for record in records if record and record.state == RUNNING and record.process is not None]
        ours = [record.process for record in running if record.process and record.sweep == self.sweep]
        return ours, [record.process for record in running if record.process and record.sweep != self.sweep]


def _print_in_handler(text: str) -> None:
    """Print from a signal handler: not through sys.stderr, which may be in the middle of a line of its own."""
    with contextlib.suppress(OSError):  # nobody may be reading any more
        os.write(2, f"{text}\n".encode())


def this_sweep() -> str | None:
    """The command whose job this process does."""
    return os.environ.get(SWEEP)


def check_not_stopped(folder: Path) -> None:
    """Raise JobInterrupted where the command of this job was asked to stop; ``folder`` is that of the sweep."""
    sweep = this_sweep()
    if sweep and _stop_file(folder, sweep).exists():
        raise JobInterrupted("the sweep was asked to stop", EXIT_CODES[signal.SIGTERM])


def leave_if_abandoned() -> None:
    """End this process where it is a child of the sweep's and that is gone: nobody takes a result from it.

    A worker of joblib would wait for that for ever, and keep its memory.
    """
    sweep = this_sweep()
    if sweep and sweep.partition("-")[0] == str(PARENT) and os.getppid() != PARENT:
        print("the process of the sweep is gone, so this one ends with its job.", file=sys.stderr, flush=True)
        sys.stdout.flush()
        os._exit(0)


@contextlib.contextmanager
def stopping_by_signals() -> Iterator[None]:
    """In a launcher's process: signals end what is inside, and between two jobs they do nothing.

    A process that waits for its next job must not end: the launchers take that for a crash and kill the other jobs.

    Raises:
        JobInterrupted: In place of the ``SystemExit`` or ``KeyboardInterrupt`` of a signal.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    taken = signals_to_handle()
    for number in taken:
        signal.signal(number, _stop)
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, EXIT_CODES)
        yield
    except (SystemExit, KeyboardInterrupt) as stop:
        why = why_stopped(stop)
        if why is None:
            raise  # not by a signal: a launcher that puts its job back into the queue leaves so
        code = stop.code if isinstance(stop, SystemExit) else EXIT_CODES[signal.SIGINT]
        raise JobInterrupted(f"the job was stopped: {why}", int(code or 0)) from stop
    finally:
        for number in taken:
            signal.signal(number, _later)


def why_stopped(stop: BaseException) -> str | None:
    """Who asked for it, of an exception that a signal has caused; None for any other."""
    return "asked to by SIGINT" if isinstance(stop, KeyboardInterrupt) else getattr(stop, "why", None)


def _stop(number: int, frame: FrameType | None) -> None:
    raise SweepStopped(number)


def _later(number: int, frame: FrameType | None) -> None:
    """Nothing: whether the sweep stops, the next job finds in the file."""


STOP = ".stop-"


def _stop_file(folder: Path, sweep: str) -> Path:
    return folder / f"{STOP}{sweep}"


def _remove_stop_files(folder: Path) -> None:
    """Remove what earlier commands left for jobs that might have begun after them; those are wanted again now."""
    for file in folder.glob(f"{STOP}*"):
        pid = file.name.removeprefix(STOP).partition("-")[0]
        if pid.isdecimal() and not Path(f"/proc/{pid}").exists():
            with contextlib.suppress(OSError):
                file.unlink()
