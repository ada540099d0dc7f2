"""Warnings recorded as a list."""

import contextlib
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def recorded_warnings() -> Iterator[list[warnings.WarningMessage]]:
    """Record every warning except ResourceWarning, which garbage of an earlier test causes whenever it is collected."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.simplefilter("ignore", ResourceWarning)
        yield caught
