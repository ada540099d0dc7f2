"""Run a program without a reader of standard error: ``python -m tests.faults.without_stderr closed|full|gone …``."""

from __future__ import annotations

import os
import runpy
import sys


def lose(how: str) -> None:
    """Make standard error as at the start of Python if it is closed, full, or a pipe without a reader."""
    sys.stderr.flush()
    if how == "closed":
        os.close(2)
        sys.stderr = None
        return
    if how == "full":
        target = os.open("/dev/full", os.O_WRONLY)
    else:
        reader, target = os.pipe()
        os.close(reader)
    os.dup2(target, 2)
    os.close(target)


if __name__ == "__main__":
    how, *program = sys.argv[1:]
    lose(how)
    sys.argv = program
    try:
        runpy.run_path(program[0], run_name="__main__")
    finally:
        sys.stderr = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")  # for the launcher
