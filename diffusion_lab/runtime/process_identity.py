"""Identity of a process that distinguishes it from another process with the same id."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ENDED = "ended"


def own_identity() -> dict[str, Any]:
    """Return host, process id and start of this process, as plain values for JSON."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "started": _started(os.getpid())}


def is_alive(identity: Mapping[str, Any]) -> bool | None:
    """Return whether the process with this identity is still running; None if it is on another host.

    A process with the same id that started at another time, for instance after a reboot, is another process. If the
    start time is unknown, the id alone decides.
    """
    pid, host, started = (identity.get(name) for name in ("pid", "host", "started"))
    if host != socket.gethostname():
        return None
    if not isinstance(pid, int) or isinstance(pid, bool) or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # alive, but of another user
    return started is None or _started(pid) in (None, started)


def _started(pid: int) -> str | None:
    """Return the boot of the system and the clock tick since then at which a process started; None if unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        # The second field is the program's name in parentheses, which may contain anything.
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        # Fields 3 and 22 of proc(5), state and starttime. A process that has ended may be a zombie.
        return ENDED if fields[0] in ("Z", "X") else f"{boot} {fields[19]}"
    except (OSError, IndexError):
        return None
