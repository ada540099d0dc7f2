"""Threaded processing of many files, with a bounded number of results computed ahead of the consumer."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")

CHUNK = 8
"""Files per task: submitting a task costs as much as decoding a tenth of a small image."""

MAX_THREADS = 8


def map_in_order(task: Callable[[int], Result], count: int) -> Iterator[Result]:
    """Yield ``task(0)``, ``task(1)``, … up to ``count``, computed by threads.

    An executor's ``map`` would start all tasks at once and keep every result that is not consumed yet.
    """
    threads = min(MAX_THREADS, os.cpu_count() or 1)
    pool = ThreadPoolExecutor(threads)
    ahead: deque[Future[list[Result]]] = deque()
    try:
        for start in range(0, count, CHUNK):
            if len(ahead) == 2 * threads:
                yield from ahead.popleft().result()
            ahead.append(pool.submit(_each, task, range(start, min(start + CHUNK, count))))
        while ahead:
            yield from ahead.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _each(task: Callable[[int], Result], indices: range) -> list[Result]:
    return [task(index) for index in indices]
