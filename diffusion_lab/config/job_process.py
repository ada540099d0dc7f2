"""Which process does a job, told apart from any other process that gets the same number later or elsewhere."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
STATE, START = 0, 19
"""Fields of ``/proc/PID/stat`` behind the name of the program: the state, the time at which it started."""

ENDED = ("Z", "X")
"""States of a process that has ended and is only not forgotten yet."""


@dataclass(frozen=True)
class JobProcess:
    """A process on some machine.

    A process id alone is not enough: after a reboot, or after some days, another program has it, and on a disk that
    several machines share it may be that of another machine.

    Attributes:
        host: Name of the machine.
        pid: Process id.
        boot: What the kernel calls the time since it was started; None where it does not say (not on Linux).
        start: When the process started, in clock ticks since the boot; None as for ``boot``.
    """

    host: str
    pid: int
    boot: str | None = None
    start: int | None = None

    @classmethod
    def this(cls) -> JobProcess:
        """The process that asks."""
        return cls(socket.gethostname(), os.getpid(), _boot(), _start(os.getpid()))

    @property
    def is_here(self) -> bool:
        """Whether it ran on this machine, before or after its last boot."""
        return self.host == socket.gethostname() or (self.boot is not None and self.boot == _boot())

    def is_alive(self) -> bool | None:
        """Whether it still runs; None where it ran on another machine, whose processes cannot be seen."""
        if not self.is_here:
            return None
        if self.boot != _boot():
            return False
        return _exists(self.pid) and self.start == _start(self.pid)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


def _boot() -> str | None:
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        return None


def _start(pid: int) -> int | None:
    try:
        # The name may hold spaces and brackets; what follows its last bracket are fields without any.
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return None if fields[STATE] in ENDED else int(fields[START])
    except (OSError, ValueError, IndexError):
        return None


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError, ValueError):
        return False
    except PermissionError:
        pass
    return True
