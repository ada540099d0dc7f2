"""All benchmarks of speed, one after the other, each in its own process: `make bench`.

    python -m benchmarks [NAME ...]

prints one table and writes outputs/bench/results.json and outputs/bench/goals.png. A goal that is not reached is a
MISS in the table; only a benchmark that breaks makes the command fail.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import asdict
from typing import Any

from benchmarks.harness import Row, machine, not_measured, say
from benchmarks.report import RESULTS, ROOT, plot, table

SUITE = (
    *("start", "training_step", "loop", "data", "sampling", "memory", "ema"),
    *("growth_images", "growth", "callbacks", "neighbours", "flags", "gpu"),
)
"""Those of `make bench`; together under 20 minutes on two cores."""

MINUTES = 6
"""What one of them may take before it is given up, so that the others have their turn."""


def run(name: str, minutes: float = MINUTES) -> dict[str, Any]:
    """The JSON of a benchmark; where it breaks, a row that says so, with ``broken`` set."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", f"benchmarks.{name}", "--json"],
            cwd=ROOT,
            stdout=subprocess.PIPE,  # what it says on standard error is progress
            text=True,
            timeout=60 * minutes,
            check=True,
        )
        found: dict[str, Any] = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        return _broken(name, f"not done after {minutes:g} minutes")
    except subprocess.CalledProcessError as error:
        return _broken(name, f"broke with exit status {error.returncode}")
    except json.JSONDecodeError:
        return _broken(name, "printed something else than JSON")
    return found


def _broken(name: str, why: str) -> dict[str, Any]:
    return {"broken": True, "rows": [asdict(not_measured("", f"benchmarks.{name}", why))]}


def main(names: list[str]) -> int:
    """Run, write, print; the exit status is that of the worst benchmark."""
    names = names or list(SUITE)
    about, began = machine(), time.monotonic()
    found: dict[str, dict[str, Any]] = {}
    for place, name in enumerate(names, start=1):
        say(f"[{place}/{len(names)}] {name} ({(time.monotonic() - began) / 60:.1f} minutes so far)")
        found[name] = run(name)
    listed = [row for told in found.values() for row in told.get("rows", [])]
    rows = sorted((Row(**row) for row in listed), key=lambda row: row.goal)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    told = {"machine": about, "rows": [asdict(row) for row in rows], "benchmarks": found}
    RESULTS.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    picture = RESULTS.with_name("goals.png")
    plot(rows, picture)
    print(table(rows))
    say(f"{(time.monotonic() - began) / 60:.1f} minutes; figures in {RESULTS.relative_to(ROOT)}")
    return int(any(told.get("broken") for told in found.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
