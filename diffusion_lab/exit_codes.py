"""The signals by which a program is asked to stop, and the exit codes that tell it did."""

from __future__ import annotations

import signal

EXIT_CODES = {
    signal.SIGTERM: 143,  # 128 + the signal's number, as the shell counts
    signal.SIGINT: 130,
    signal.SIGUSR1: 85,  # ERESTART; HTCondor's code, too, for "checkpointed: start me again"
}
