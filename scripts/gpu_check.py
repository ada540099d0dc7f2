"""Tests and measures on a machine with a CUDA device, by that machine's own Python and torch: `make gpu-check`.

Only the standard library is needed to start. What else the tests import is taken from the machine where it is there,
and installed into outputs/gpu/venv where it is not: from a package index, or from a folder of wheels where there is no
network (`--wheels`; `make gpu-wheels` fills one elsewhere). One file tells what came out:

    python -m benchmarks.report outputs/gpu/results.json

writes it into docs/performance.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import subprocess
import sys
import time
import tomllib
import venv
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "outputs" / "gpu"
RESULTS = FOLDER / "results.json"

OF_THE_MACHINE = ("torch", "torchvision")
"""Never installed: they belong to the machine's CUDA driver."""

FURTHER = ("pytest>=8.4", "hypothesis>=6.130", "diffusers>=0.42,<1")
"""What tests and the benchmark import beside the requirements of the project."""

TEST_SECONDS, BENCHMARK_SECONDS = 210, 210
"""What each may take, so that all of it ends within 8 minutes."""

ABOUT = """
import json, platform, torch
gpu = torch.cuda.get_device_properties(0) if torch.cuda.is_available() else None
print(json.dumps({
    "python": platform.python_version(), "torch": torch.__version__, "cuda": torch.version.cuda,
    "gpu": gpu and gpu.name, "memory_gib": gpu and round(gpu.total_memory / 2**30),
}))
"""


def main(arguments: list[str] | None = None) -> int:
    """Check the machine, install what is missing, test, measure, write; the exit status is 0 if all tests pass."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--wheels", type=Path, help="install from this folder alone, without a network")
    parser.add_argument("--output", type=Path, default=RESULTS, help="the file of results (default: %(default)s)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu rehearses, with the tests alone")
    given = parser.parse_args(arguments)
    began = time.monotonic()
    about = _told(sys.executable, ABOUT)
    if given.device == "cuda" and not about["gpu"]:
        print(f"Error: torch {about['torch']} of {sys.executable} finds no CUDA device", file=sys.stderr)
        return 2
    given.output.parent.mkdir(parents=True, exist_ok=True)
    python = environment(given.wheels)
    tests = run_tests(python, given.device)
    rows = run_benchmark(python) if given.device == "cuda" else []
    found = {"machine": about, "tests": tests, "rows": rows, "seconds": round(time.monotonic() - began)}
    given.output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    outcomes = [test["outcome"] for test in tests]
    counts = ", ".join(f"{outcomes.count(name)} {name}" for name in sorted(set(outcomes)))
    print(f"{counts or 'no test ran'}; {len(rows)} rows measured; {found['seconds']} s; results in {given.output}")
    return int(not outcomes or bool({"failed", "error"} & set(outcomes)))


def requirements() -> list[str]:
    """What has to be there beside the machine's own torch."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = [(line, re.split(r"[<>=!~;\[ ]", line)[0]) for line in project["dependencies"]]
    return [line for line, name in names if name not in OF_THE_MACHINE] + list(FURTHER)


def environment(wheels: Path | None) -> Path:
    """Make an environment that sees the packages of this interpreter and has what those lack; returns its Python."""
    folder = FOLDER / "venv"
    venv.EnvBuilder(with_pip=False, clear=True, symlinks=os.name != "nt").create(folder)
    python = folder / "bin" / "python"
    (packages,) = folder.glob("lib/python*/site-packages")
    # Not by system-site-packages: this interpreter may be that of an environment, which is then left out.
    outside = [path for path in sys.path if path and Path(path).is_dir() and Path(path) != ROOT / "scripts"]
    (packages / "machine.pth").write_text("\n".join(outside) + "\n", encoding="utf-8")
    lacking = missing(requirements())
    source = ["--no-index", "--find-links", str(wheels.resolve())] if wheels else []
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-compile"]
    options = ["--disable-pip-version-check", "--no-warn-conflicts", *source]
    if lacking and subprocess.run([*command, *options, *lacking], check=False).returncode:
        print(
            f"Error: this machine lacks {', '.join(lacking)}, which could not be installed; without a network, run "
            "make gpu-wheels where there is one and bring .gpu-wheels along",
            file=sys.stderr,
        )
        raise SystemExit(2)
    return python


def missing(wanted: list[str]) -> list[str]:
    """The requirements that this interpreter has not, or in another version."""
    from pip._vendor.packaging.requirements import Requirement  # of pip, which has to be there

    lacking = []
    for line in wanted:
        requirement = Requirement(line)
        try:
            there = requirement.specifier.contains(version(requirement.name), prereleases=True)
        except PackageNotFoundError:
            there = False
        if not there:
            lacking.append(line)
    return lacking


def run_tests(python: Path, device: str) -> list[dict[str, Any]]:
    """Run tests/gpu; gives each test's name, outcome, seconds, and what it recorded or why it failed."""
    report = FOLDER / "tests.xml"
    report.unlink(missing_ok=True)
    chosen = ["-m", "gpu"] if device == "cuda" else ["-k", "cpu and not cuda"]
    report_options = [f"--junitxml={report}", "-o", "junit_family=xunit1"]  # which has a place for what tests record
    command = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/gpu", *chosen, *report_options]
    with limited("tests"):
        subprocess.run(command, cwd=ROOT, timeout=TEST_SECONDS, check=False)
    if not report.exists():
        return [{"name": "tests/gpu", "outcome": "error", "seconds": TEST_SECONDS, "message": "ended without a report"}]
    return [_test(case) for case in ElementTree.parse(report).iter("testcase")]


def _test(case: ElementTree.Element) -> dict[str, Any]:
    names = {"failure": "failed", "error": "error", "skipped": "skipped"}
    outcome, message = "passed", ""
    for tag, name in names.items():
        if (found := case.find(tag)) is not None:
            outcome, message = name, (found.get("message") or "").partition("\n")[0][:300]
    recorded = {item.get("name"): item.get("value") for item in case.iter("property")}
    told: dict[str, Any] = {"name": case.get("name"), "outcome": outcome, "seconds": float(case.get("time") or 0)}
    return told | ({"message": message} if message else {}) | ({"recorded": recorded} if recorded else {})


def run_benchmark(python: Path) -> list[dict[str, Any]]:
    """Run benchmarks.gpu; gives its rows, one open one where it breaks or takes too long."""
    command = [str(python), "-m", "benchmarks.gpu", "--json"]
    why = f"not done after {BENCHMARK_SECONDS} s"
    with limited("the benchmark"):
        done = subprocess.run(
            command, cwd=ROOT, timeout=BENCHMARK_SECONDS, stdout=subprocess.PIPE, text=True, check=False
        )
        try:
            rows: list[dict[str, Any]] = json.loads(done.stdout)["rows"]
            return rows
        except (ValueError, KeyError):
            why = f"broke with exit status {done.returncode}"
    blank = {"ours": None, "peer": None, "unit": "", "ratio": None}
    return [{"goal": "9", "what": "benchmarks.gpu", **blank, "note": why}]


@contextlib.contextmanager
def limited(what: str) -> Iterator[None]:
    """Say what is going on, and go on where it takes too long."""
    print(f"{what} ...", file=sys.stderr, flush=True)
    try:
        yield
    except subprocess.TimeoutExpired as error:
        print(f"{what}: stopped after {error.timeout:g} s", file=sys.stderr)


def _told(python: str, code: str) -> dict[str, Any]:
    try:
        done = subprocess.run([python, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    except subprocess.CalledProcessError:
        raise SystemExit(
            f"Error: {python} has no torch that works: name one that has (make gpu-check GPU_PYTHON=…)"
        ) from None
    found: dict[str, Any] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    sys.exit(main())
