"""How a benchmark measures and what it tells: ways taken in turns, the machine's own limit, rows with a goal.

A benchmark is a module with ``measure() -> list[Row]``; ``command`` makes it a command of its own. Figures of one run
alone are compared: the machine, and what else it is busy with, are the same for all that is taken in turns.
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
"""Side of the matrices whose product is taken for the machine's limit."""


@dataclass(frozen=True)
class Row:
    """A line of the table: a figure of ours beside another's, and what their ratio is to be.

    Args:
        goal: Number of the goal, as docs/performance.md lists them.
        what: What was measured.
        ours: Our figure, None where it could not be taken.
        peer: What it is compared with.
        unit: Of both.
        ratio: Of ours to the peer's, or the other way round where less is better; ``bound`` says what it must reach.
            None where there is no peer.
        bound: A number that the ratio must not fall below (``at_least``) or exceed; None where there is no goal.
        at_least: Which of the two.
        share: Of the machine's limit, where what is measured is arithmetic.
        note: Whose figure the peer's is, or why there is none.
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
        """Whether the goal is reached; None where there is none, or nothing was measured."""
        if self.ratio is None or self.bound is None:
            return None
        return self.ratio >= self.bound if self.at_least else self.ratio <= self.bound

    @property
    def verdict(self) -> str:
        """The last word of the line."""
        if self.ours is None:
            return "open"
        return {None: "", True: "reached", False: "MISS"}[self.reached]


def not_measured(goal: str, what: str, why: str) -> Row:
    """The row of something that cannot be measured here."""
    return Row(goal, what, None, None, "", None, note=why)


@dataclass(frozen=True)
class Turns:
    """Seconds of each way in each round."""

    seconds: Mapping[str, list[float]]

    def median(self, way: str) -> float:
        """The usual time of a way."""
        return statistics.median(self.seconds[way])

    def ratio(self, slow: str, fast: str) -> float:
        """How many times ``slow`` takes as long as ``fast``: the median of the ratios within a round."""
        pairs = zip(self.seconds[slow], self.seconds[fast], strict=True)
        return statistics.median(one / other for one, other in pairs)


def in_turns(
    ways: Mapping[str, Callable[[], object]],
    rounds: int = 5,
    warm_up: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> Turns:
    """Take each way once a round, A B A B: what slows the machine down for a while slows all of them.

    Args:
        ways: What is timed, by name.
        rounds: How many count.
        warm_up: Rounds before them, which do not.
        clock: Tells seconds.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for index in range(warm_up + rounds):
        for name, way in ways.items():
            gc.collect()  # what one way leaves behind is not paid for by the next
            began = clock()
            way()
            if index >= warm_up:
                seconds[name].append(clock() - began)
    return Turns(seconds)


def in_turns_apart(ways: Mapping[str, Callable[[], Callable[[], object]]], rounds: int = 5) -> Turns:
    """As ``in_turns``, each way in a process of its own, as its users run it: what one does to its process, such as how
    the memory is managed, is nothing to the others.

    Args:
        ways: By name, what makes the way in its process; it must be importable there.
        rounds: How many count; one before them does not.
    """
    with contextlib.ExitStack() as processes:
        return in_turns({name: processes.enter_context(_apart(make)) for name, make in ways.items()}, rounds)


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
    """Take the way each time that it is asked for, and tell what went wrong, until the other end is closed."""
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
    """A product of two square matrices, to be taken in turns with what it is the limit of."""
    left, right = torch.randn(2, size, size, device=device).to(dtype)
    return lambda: left @ right


def matrix_flops(size: int = LIMIT_SIZE) -> int:
    """Operations of that product."""
    return 2 * size**3


def bf16_is_accelerated() -> bool:
    """Whether a matrix product is faster in bfloat16 than in float32: some machines only emulate it."""
    taken = in_turns({str(dtype): matrix_product(dtype, 512) for dtype in (torch.float32, torch.bfloat16)}, rounds=3)
    return taken.ratio("torch.float32", "torch.bfloat16") > 1.2


def machine() -> dict[str, Any]:
    """What the figures were taken on, with its limit in GFLOP/s."""
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
    return in_turns({"": way}, rounds=3).median("")


def say(text: str) -> None:
    """Progress, on standard error: standard output holds the table or the JSON alone."""
    print(text, file=sys.stderr, flush=True)


def command(name: str, measure: Callable[..., list[Row]], **options: str) -> None:
    """Run a benchmark as ``python -m benchmarks.NAME [--json]``.

    Args:
        name: Of the module.
        measure: Takes ``options`` by name.
        options: Further options of the command, with their defaults.
    """
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}")
    parser.add_argument("--json", action="store_true", help="print JSON alone")
    for option, default in options.items():
        parser.add_argument(f"--{option}", default=default, help=f"default: {default}")
    given = vars(parser.parse_args())
    as_json = given.pop("json")
    rows = measure(**given)
    if as_json:
        print(json.dumps({"rows": [asdict(row) for row in rows]}, indent=2))
        return
    from benchmarks.report import table

    print(table(rows))
