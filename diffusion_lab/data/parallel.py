"""Work on many files by threads, a bounded number of results ahead of whoever takes them."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")

CHUNK = 8
"""Files a thread takes at once: handing over costs as much as decoding a tenth of a small picture."""

MOST_THREADS = 8


def in_order(task: Callable[[int], Result], count: int) -> Iterator[Result]:
    """``task(0)``, ``task(1)``, … up to ``count``, worked out by threads.

    An executor's own ``map`` would begin all at once and keep every result that is not taken yet.
    """
    threads = min(MOST_THREADS, os.cpu_count() or 1)
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
