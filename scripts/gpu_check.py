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
import signal
import subprocess
import sys
import time
import venv
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

TEST_SECONDS, BENCHMARK_SECONDS, LAST_SECONDS = 200, 210, 15
"""What each may take, so that all ends within 8 minutes, and how long interrupted tests may write their report."""

PARTS = ("training step, bf16", "data", "DDIM, bf16", "performance settings", "CUDA graphs")
"""Of benchmarks.gpu, the least important last."""

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
    if sys.version_info < (3, 11):  # noqa: UP036, it runs by whatever Python the machine has
        print(f"Error: Python 3.11 or newer is needed, {sys.executable} is {sys.version.split()[0]}", file=sys.stderr)
        return 2
    began = time.monotonic()
    about = _told(sys.executable, ABOUT)
    if given.device == "cuda" and not about["gpu"]:
        print(f"Error: torch {about['torch']} of {sys.executable} finds no CUDA device", file=sys.stderr)
        return 2
    given.output.parent.mkdir(parents=True, exist_ok=True)
    python = environment(given.wheels)
    rows: list[dict[str, Any]] = []
    tests = run_tests(python, given.device)
    found = {"machine": about, "tests": tests, "rows": rows}
    write(given.output, found, began)  # what is known is kept if the benchmark ends the machine
    if given.device == "cuda":
        rows += run_benchmark(python)
    write(given.output, found, began)
    outcomes = [test["outcome"] for test in tests]
    counts = ", ".join(f"{outcomes.count(name)} {name}" for name in sorted(set(outcomes)))
    measured = sum(row["ours"] is not None for row in rows)
    print(f"{counts or 'no test ran'}; {measured} of {len(rows)} rows measured; {found['seconds']} s")
    print(f"results in {given.output}; into docs/performance.md: {python} -m benchmarks.report {given.output}")
    return int(not outcomes or bool({"failed", "error"} & set(outcomes)))


def write(output: Path, found: dict[str, Any], began: float) -> None:
    """Write the file of results."""
    found["seconds"] = round(time.monotonic() - began)
    output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def requirements() -> list[str]:
    """What has to be there beside the machine's own torch."""
    import tomllib  # here, so that an older Python is told what it lacks

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
    try:
        from pip._vendor.packaging.requirements import Requirement
    except ModuleNotFoundError:
        print(f"Error: {sys.executable} has no pip: `{sys.executable} -m ensurepip` adds it", file=sys.stderr)
        raise SystemExit(2) from None

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
    print("tests ...", file=sys.stderr, flush=True)
    # Plugins that the machine happens to have are none of ours, and may not fit this pytest.
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    with subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True) as process:
        _wait(process, TEST_SECONDS)
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


def _wait(process: subprocess.Popen[bytes], seconds: float) -> None:
    """Wait for pytest; after so many seconds interrupt it, upon which it reports the tests so far, and then kill it."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        print(f"tests: stopped after {seconds:g} s", file=sys.stderr)
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(LAST_SECONDS)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # with the processes that it may have left behind


def run_benchmark(python: Path) -> list[dict[str, Any]]:
    """Run the parts of benchmarks.gpu; gives their rows, an open one for each part that breaks or takes too long."""
    ends = time.monotonic() + BENCHMARK_SECONDS
    return [row for part in PARTS for row in run_part(python, part, ends - time.monotonic())]


def run_part(python: Path, part: str, seconds: float) -> list[dict[str, Any]]:
    """Run one part of benchmarks.gpu in at most so many seconds; gives its rows."""
    print(f"benchmark: {part} ...", file=sys.stderr, flush=True)
    command = [str(python), "-m", "benchmarks.gpu", "--json", "--part", part]
    try:
        done = subprocess.run(command, cwd=ROOT, timeout=max(seconds, 0), capture_output=True, text=True, check=False)
        rows: list[dict[str, Any]] = json.loads(done.stdout)["rows"]
        return rows
    except subprocess.TimeoutExpired:
        why = f"not done within the {BENCHMARK_SECONDS} s of all parts"
    except (ValueError, KeyError):
        print(done.stderr, file=sys.stderr)
        last = (done.stderr.strip() or "nothing said").splitlines()[-1][:200].replace("|", "/")
        why = f"exit status {done.returncode}: {last}"
    blank = {"ours": None, "peer": None, "unit": "", "ratio": None}
    return [{"goal": "9", "what": f"GPU: {part}", **blank, "note": why}]


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
