"""Measurement and reporting of benchmarks: alternating variants, the machine's limit, rows with a goal.

A benchmark is a module with ``measure() -> list[Row]``; ``command`` runs it from the command line. Only figures of one
run are compared: the machine and its load are the same for all variants that are measured alternately.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import multiprocessing
import platform
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from typing import Any

import torch

LIMIT_SIZE = 2048
"""Side of the matrices whose product is the machine's limit."""


@dataclass(frozen=True)
class Row:
    """Row of the table: our figure, that of a peer, and the bound of their ratio.

    Args:
        goal: Number of the goal in docs/performance.md.
        what: Description of the measurement.
        ours: Our figure, None if it could not be measured.
        peer: The figure that it is compared with.
        unit: Unit of both.
        ratio: Ratio of ours to the peer's, or the inverse if less is better. None if there is no peer.
        bound: Lower (``at_least``) or upper bound of the ratio; None if there is no goal.
        at_least: Whether ``bound`` is a lower bound.
        share: Fraction of the machine's limit, for arithmetic.
        note: Description of the peer, or why there is none.
    """

    goal: str
    what: str
    ours: float | None
    peer: float | None
    unit: str
    ratio: float | None
    bound: float | None = None
    at_least: bool = True
    share: float | None = None
    note: str = ""

    @property
    def reached(self) -> bool | None:
        """Whether the goal is reached; None if there is none, or nothing was measured."""
        if self.ratio is None or self.bound is None:
            return None
        return self.ratio >= self.bound if self.at_least else self.ratio <= self.bound

    @property
    def verdict(self) -> str:
        """Verdict in the table."""
        if self.ours is None:
            return "open"
        return {None: "", True: "reached", False: "MISS"}[self.reached]


def not_measured(goal: str, what: str, why: str) -> Row:
    """Return the row of something that cannot be measured here."""
    return Row(goal, what, None, None, "", None, note=why)


@dataclass(frozen=True)
class Timings:
    """Seconds of each variant in each round."""

    seconds: Mapping[str, list[float]]

    def median(self, way: str) -> float:
        """Return the median time of a variant."""
        return statistics.median(self.seconds[way])

    def ratio(self, slow: str, fast: str) -> float:
        """Return the ratio of the times of ``slow`` and ``fast``: the median of the ratios within a round."""
        pairs = zip(self.seconds[slow], self.seconds[fast], strict=True)
        return statistics.median(one / other for one, other in pairs)


def time_alternately(
    ways: Mapping[str, Callable[[], object]],
    rounds: int = 5,
    warm_up: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> Timings:
    """Time each variant once per round, A B A B, so that a temporary slowdown of the machine affects all of them.

    Args:
        ways: The variants by name.
        rounds: Number of timed rounds.
        warm_up: Number of rounds before them that are not counted.
        clock: Returns seconds.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for index in range(warm_up + rounds):
        for name, way in ways.items():
            gc.collect()  # so that garbage of one variant is not collected in the next
            began = clock()
            way()
            if index >= warm_up:
                seconds[name].append(clock() - began)
    return Timings(seconds)


def time_in_processes(ways: Mapping[str, Callable[[], Callable[[], object]]], rounds: int = 5) -> Timings:
    """Time variants like ``time_alternately``, each in a separate process, so that they do not affect each other.

    For example, memory management of one variant could affect the next.

    Args:
        ways: Functions by name that create the variant in its process; they must be importable there.
        rounds: Number of timed rounds, after one that is not counted.
    """
    with contextlib.ExitStack() as processes:
        return time_alternately({name: processes.enter_context(_apart(make)) for name, make in ways.items()}, rounds)


@contextlib.contextmanager
def _apart(make: Callable[[], Callable[[], object]]) -> Iterator[Callable[[], object]]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, make), daemon=True)
    process.start()
    theirs.close()

    def way() -> None:
        ours.send(None)
        if (fault := ours.recv()) is not None:
            raise RuntimeError(fault)

    try:
        yield way
    finally:
        ours.close()
        process.join()


def _serve(pipe: Connection, make: Callable[[], Callable[[], object]]) -> None:
    """Run the variant on each request and send back errors, until the other end is closed."""
    way: Callable[[], object] | None = None
    with contextlib.suppress(EOFError):
        while True:
            pipe.recv()
            try:
                way = way or make()
                way()
                pipe.send(None)
            except Exception:
                pipe.send(traceback.format_exc())


def matrix_product(
    dtype: torch.dtype, size: int = LIMIT_SIZE, device: torch.device | str = "cpu"
) -> Callable[[], object]:
    """Return a function that multiplies two square matrices, as the limit in the same rounds."""
    left, right = torch.randn(2, size, size, device=device).to(dtype)
    return lambda: left @ right


def matrix_flops(size: int = LIMIT_SIZE) -> int:
    """Return the number of operations of that product."""
    return 2 * size**3


def bf16_is_accelerated() -> bool:
    """Return whether a matrix product is faster in bfloat16 than in float32: some machines only emulate it."""
    taken = time_alternately(
        {str(dtype): matrix_product(dtype, 512) for dtype in (torch.float32, torch.bfloat16)}, rounds=3
    )
    return taken.ratio("torch.float32", "torch.bfloat16") > 1.2


def machine() -> dict[str, Any]:
    """Return a description of the machine, with its limit in GFLOP/s."""
    limit = {}
    for dtype in (torch.float32, torch.bfloat16):
        size = LIMIT_SIZE if dtype == torch.float32 else LIMIT_SIZE // 2  # emulated bf16 would take minutes
        limit[str(dtype).removeprefix("torch.")] = matrix_flops(size) / 1e9 / _median(matrix_product(dtype, size))
    return {
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "limit_gflops": limit,
    }


def _median(way: Callable[[], object]) -> float:
    return time_alternately({"": way}, rounds=3).median("")


def print_progress(text: str) -> None:
    """Print progress on standard error: standard output contains only the table or the JSON."""
    print(text, file=sys.stderr, flush=True)


def command(name: str, measure: Callable[..., list[Row]], **options: str) -> None:
    """Run a benchmark as ``python -m benchmarks.NAME [--json]``.

    Args:
        name: Name of the module.
        measure: Function that accepts ``options`` by name.
        options: Additional options of the command, with their defaults.
    """
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}")
    parser.add_argument("--json", action="store_true", help="print only JSON")
    for option, default in options.items():
        parser.add_argument(f"--{option}", default=default, help=f"default: {default}")
    arguments = vars(parser.parse_args())
    as_json = arguments.pop("json")
    rows = measure(**arguments)
    if as_json:
        print(json.dumps({"rows": [asdict(row) for row in rows]}, indent=2))
        return
    from benchmarks.report import table

    print(table(rows))
