"""Another process, which holds a folder."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

HOLD = """
import sys
from pathlib import Path
from diffusion_lab.files.folder_lock import hold_lock
with hold_lock(Path(sys.argv[1]), "key"):
    print("hold_lock", flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def holding(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock of a folder, and is killed at the end if it still runs."""
    command = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "hold_lock\n"
        try:
            yield holder
        finally:
            holder.kill()
