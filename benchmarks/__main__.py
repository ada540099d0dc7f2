"""Run all benchmarks of speed, one after the other, each in its own process: `make bench`.

    python -m benchmarks [NAME ...]

prints one table and writes outputs/bench/results.json and outputs/bench/goals.png. A goal that is not reached is a
MISS in the table; the command fails only if a benchmark fails.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import asdict
from typing import Any

from benchmarks.harness import Row, machine, not_measured, print_progress
from benchmarks.report import RESULTS, ROOT, plot, table

SUITE = (
    *("start", "training_step", "loop", "data", "sampling", "memory", "ema"),
    *("growth_images", "growth", "callbacks", "neighbours", "flags", "gpu"),
)
"""Benchmarks of `make bench`; together under 20 minutes on two cores."""

MINUTES = 6
"""Time limit of each benchmark."""


def run(name: str, minutes: float = MINUTES) -> dict[str, Any]:
    """Return the JSON output of a benchmark; if it fails, a row that says so, with ``broken`` set."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", f"benchmarks.{name}", "--json"],
            cwd=ROOT,
            stdout=subprocess.PIPE,  # standard error shows progress
            text=True,
            timeout=60 * minutes,
            check=True,
        )
        result: dict[str, Any] = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        return _broken(name, f"not done after {minutes:g} minutes")
    except subprocess.CalledProcessError as error:
        return _broken(name, f"failed with exit status {error.returncode}")
    except json.JSONDecodeError:
        return _broken(name, "did not print JSON")
    return result


def _broken(name: str, why: str) -> dict[str, Any]:
    return {"broken": True, "rows": [asdict(not_measured("", f"benchmarks.{name}", why))]}


def main(names: list[str]) -> int:
    """Run the benchmarks, write and print the results; return 1 if one of them failed."""
    names = names or list(SUITE)
    about, began = machine(), time.monotonic()
    results: dict[str, dict[str, Any]] = {}
    for index, name in enumerate(names, start=1):
        print_progress(f"[{index}/{len(names)}] {name} ({(time.monotonic() - began) / 60:.1f} minutes so far)")
        results[name] = run(name)
    listed = [row for result in results.values() for row in result.get("rows", [])]
    rows = sorted((Row(**row) for row in listed), key=lambda row: row.goal)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    content = {"machine": about, "rows": [asdict(row) for row in rows], "benchmarks": results}
    RESULTS.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    plot(rows, RESULTS.with_name("goals.png"))
    print(table(rows))
    print_progress(f"{(time.monotonic() - began) / 60:.1f} minutes; figures in {RESULTS.relative_to(ROOT)}")
    return int(any(result.get("broken") for result in results.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
