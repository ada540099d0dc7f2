"""Exit codes: of reported errors, and of the signals that ask a program to stop."""

from __future__ import annotations

import signal

EXIT_CODE = 2
"""Exit code after an error that was reported to the user in one message."""

REPORTED = "reported_by_job"
"""Attribute of an error that a job of a sweep has reported to the user."""

EXIT_CODES = {
    signal.SIGTERM: 143,  # 128 + the signal's number, as the shell counts
    signal.SIGINT: 130,
    signal.SIGUSR1: 85,  # ERESTART; HTCondor's code, too, for "checkpointed: start me again"
    signal.SIGUSR2: 140,
    signal.SIGHUP: 129,  # the terminal is gone
    signal.SIGXCPU: 152,  # the soft limit on processor time is reached
}


def signals_to_handle() -> list[signal.Signals]:
    """Return the signals of ``EXIT_CODES``, except those with another purpose in this process.

    Under nohup SIGHUP is ignored, so that the program outlives its terminal; in a job of submitit SIGUSR2 requeues the
    job.
    """
    return [number for number in EXIT_CODES if not _has_other_purpose(number)]


def _has_other_purpose(number: signal.Signals) -> bool:
    handler = signal.getsignal(number)
    if number == signal.SIGHUP:
        return handler == signal.SIG_IGN
    return number == signal.SIGUSR2 and str(getattr(handler, "__module__", "")).startswith("submitit")
