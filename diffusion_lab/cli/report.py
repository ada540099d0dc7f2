"""Error messages of the scripts: failures are reported to the user without a traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TypeVar

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from diffusion_lab.console.messages import explain, sentence, show_plain_warnings
from diffusion_lab.console.terminal import printable, resilient_stderr
from diffusion_lab.faults import CommandError, ConfigError, traceback_note
from diffusion_lab.runtime.exit_codes import EXIT_CODE, REPORTED
from diffusion_lab.runtime.home import ensure_home

Result = TypeVar("Result")

TRACEBACK_VARIABLE = "DIFFUSION_LAB_TRACEBACK"


def run_and_report(task: Callable[[], Result]) -> Result:
    """Run a script's task; an error of the user or the machine ends in one message and exit code 2.

    Those errors are ValueError, OSError and MemoryError, and any exception of a training run that had started: its
    traceback is in the run's own log, which the message names.

    With DIFFUSION_LAB_TRACEBACK=1 in the environment the traceback is shown instead. In a Hydra multirun the
    message is printed and the exception is passed on to Hydra, which runs the other jobs: an exit would end the
    sweep.
    """
    show_plain_warnings()
    ensure_home()
    with resilient_stderr():
        return _run(task)


def _run(task: Callable[[], Result]) -> Result:
    try:
        return task()
    except Exception as error:
        expected = isinstance(error, ValueError | OSError | MemoryError)
        recorded = traceback_note(error)
        if os.environ.get(TRACEBACK_VARIABLE) == "1" or not (expected or recorded):
            raise
        job = _job_of_multirun()
        location = "" if job is None else f" in job {job}"
        message = explain(error) if expected else f"the run failed with {type(error).__name__}: {error}"
        is_setting_error = isinstance(error, ConfigError | CommandError)  # not caused by the code
        hint = "" if is_setting_error else f"\n({TRACEBACK_VARIABLE}=1 shows where in the code)"
        more = f"\n({recorded})" if recorded else hint
        print(f"Error{location}: {sentence(message)}{printable(more)}", file=sys.stderr)
        if job is not None:
            error.__dict__[REPORTED] = True  # it may reach the sweep from another process
            raise
        raise SystemExit(EXIT_CODE) from error


def _job_of_multirun() -> int | None:
    if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        return int(HydraConfig.get().job.num)
    return None
