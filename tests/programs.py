"""Running the real programs in separate processes, each within a second: ``program_launcher.py`` forks them."""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

LAUNCHER = Path(__file__).with_name("program_launcher.py")


@cache
def shared_launcher() -> Launcher:
    """The one launcher of this test process, which ends with it."""
    launcher = Launcher()
    atexit.register(launcher.close)
    return launcher


class Launcher:
    """Speaks with ``program_launcher.py``: that of a copy of the project, where one is given."""

    def __init__(self, script: Path = LAUNCHER) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def ask(self, **request: Any) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(30)


class Program:
    """A program that runs: ``python PROGRAM …`` in ``folder``.

    Args:
        launcher: What starts it.
        program: Its command line, without the interpreter: ``("train.py", "training.epochs=1")``, ``("-m", "module")``.
        folder: Where it runs.
        env: Additions to the environment of the tests.
    """

    def __init__(self, launcher: Launcher, program: tuple[str, ...], folder: Path, env: dict[str, str]) -> None:
        self.launcher = launcher
        mark = f"{time.monotonic_ns()}"
        self._out, self._err = (folder.parent / f"{folder.name}.{mark}.{name}" for name in ("out", "err"))
        request = {"program": list(program), "cwd": str(folder), "out": str(self._out), "err": str(self._err)}
        self.pid: int = launcher.ask(do="start", env=env, **request)
        self.code: int | None = None

    @property
    def out(self) -> str:
        """Standard output so far."""
        return self._out.read_text() if self._out.exists() else ""

    @property
    def err(self) -> str:
        """Standard error so far."""
        return self._err.read_text() if self._err.exists() else ""

    @property
    def running(self) -> bool:
        return self.ended(0) is None

    def ended(self, seconds: float) -> int | None:
        """Return its exit code (negative: the signal that ended it), None if it still runs after that time."""
        if self.code is None:
            self.code = self.launcher.ask(do="wait", pid=self.pid, seconds=seconds)
        return self.code

    def wait(self, seconds: float = 120) -> int:
        """Wait and return the exit code; fail the test, with the output, if the program does not end."""
        code = self.ended(seconds)
        if code is None:
            self.signal(signal.SIGKILL)
            pytest.fail(f"still running after {seconds} s:\n{self.err}")
        return code

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the program alone, as a scheduler does."""
        os.kill(self.pid, number)

    def signal_all(self, number: signal.Signals) -> None:
        """Send a signal to the program and all processes that it started, as a terminal does."""
        os.killpg(self.pid, number)

    @staticmethod
    def paused_at(pattern: str, number: int) -> dict[str, str]:
        """The environment of a program that pauses before it writes a file of a matching name for the n-th time.

        Then no machine is so slow, or so fast, that a signal comes too late: ``wait_until_paused``, ``signal``,
        ``go_on``. A write is opening a file to write or append to it, or moving another file to its name.
        """
        return {"TEST_PAUSE_AT": f"{pattern} {number}"}

    def wait_until_paused(self) -> None:
        """Wait until the program has paused; fails the test if it ends before."""
        self.until(lambda: _state(self.pid) == "T")

    def go_on(self) -> None:
        """Let a paused program go on, after what signals it got."""
        self.signal(signal.SIGCONT)

    def until(self, holds: Callable[[], object], seconds: float = 120) -> None:
        """Wait until something holds; fails the test if the program ends before."""
        ends = time.monotonic() + seconds
        while not holds():
            if not self.running and not holds():
                pytest.fail(f"ended with {self.code} before what was waited for:\n{self.err}")
            if time.monotonic() > ends:
                self.signal(signal.SIGKILL)
                pytest.fail(f"what was waited for did not come in {seconds} s:\n{self.err}")
            time.sleep(0.005)


def _state(pid: int) -> str:
    """State of a process as ``ps`` names it: T is stopped by a signal."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
