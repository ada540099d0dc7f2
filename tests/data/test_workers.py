"""Loader workers that are lost; how real ones die and hang is in tests/faults."""

from __future__ import annotations

import pytest

from diffusion_lab.data.workers import naming_lost_workers

DIED = "DataLoader worker (pid 12) is killed by signal: Killed. "
ENDED = "DataLoader worker (pid(s) 12, 13) exited unexpectedly"


@pytest.mark.parametrize(
    ("message", "kind", "told"),
    [
        (DIED, ChildProcessError, r"process id 12\) was killed by signal Killed"),
        (ENDED, ChildProcessError, r"process id 12, 13\) ended unexpectedly"),
        (
            "DataLoader timed out after 2.5 seconds",
            TimeoutError,
            r"for 2\.5 s, the limit data\.loading\.worker_timeout",
        ),
        ("CUDA error", RuntimeError, "^CUDA error$"),
    ],
)
def test_a_lost_worker_is_named_and_other_errors_are_left_alone(message: str, kind: type[Exception], told: str) -> None:
    with pytest.raises(kind, match=told), naming_lost_workers():
        raise RuntimeError(message)


def test_the_signal_is_told_where_it_came_while_a_batch_was_waited_for():
    vaguer = RuntimeError("DataLoader worker (pid(s) 12) exited unexpectedly")
    vaguer.__cause__ = RuntimeError("DataLoader worker (pid 12) is killed by signal: Killed. ")
    with (
        pytest.raises(ChildProcessError, match=r"\(process id 12\) was killed by signal Killed"),
        naming_lost_workers(),
    ):
        raise vaguer
