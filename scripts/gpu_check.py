"""Run tests and benchmarks on a machine with a CUDA device, with its own Python and torch: `make gpu-check`.

Only the standard library is needed to start. Packages that the tests import are used from the machine if available,
and otherwise installed into outputs/gpu/venv: from a package index, or from a folder of wheels without a network
(`--wheels`; `make gpu-wheels` fills one elsewhere). The results are one file:

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

PREINSTALLED = ("torch", "torchvision")
"""Packages that are never installed: they must match the machine's CUDA driver."""

TEST_REQUIREMENTS = ("pytest>=8.4", "hypothesis>=6.130", "diffusers>=0.42,<1")
"""Packages that tests and the benchmark import besides the requirements of the project."""

TEST_SECONDS, BENCHMARK_SECONDS, LAST_SECONDS = 200, 210, 15
"""Time limits, so that everything ends within 8 minutes, and the time for interrupted tests to write their report."""

PARTS = ("training step, bf16", "data", "DDIM, bf16", "performance settings", "CUDA graphs")
"""Parts of benchmarks.gpu, the least important last."""

ABOUT = """
import json, platform, torch
gpu = torch.cuda.get_device_properties(0) if torch.cuda.is_available() else None
print(json.dumps({
    "python": platform.python_version(), "torch": torch.__version__, "cuda": torch.version.cuda,
    "gpu": gpu and gpu.name, "memory_gib": gpu and round(gpu.total_memory / 2**30),
}))
"""


def main(arguments: list[str] | None = None) -> int:
    """Check the machine, install missing packages, test, measure, write; return 0 if all tests pass."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--wheels", type=Path, help="install only from this folder, without a network")
    parser.add_argument("--output", type=Path, default=RESULTS, help="file of the results (default: %(default)s)")
    parser.add_argument(
        "--device", choices=("cuda", "cpu"), default="cuda", help="cpu is a rehearsal with only the tests"
    )
    options = parser.parse_args(arguments)
    if sys.version_info < (3, 11):  # noqa: UP036, it runs with any Python of the machine
        print(f"Error: Python 3.11 or newer is needed, {sys.executable} is {sys.version.split()[0]}", file=sys.stderr)
        return 2
    began = time.monotonic()
    about = _output_of(sys.executable, ABOUT)
    if options.device == "cuda" and not about["gpu"]:
        print(f"Error: torch {about['torch']} of {sys.executable} finds no CUDA device", file=sys.stderr)
        return 2
    options.output.parent.mkdir(parents=True, exist_ok=True)
    python = environment(options.wheels)
    rows: list[dict[str, Any]] = []
    tests = run_tests(python, options.device)
    results = {"machine": about, "tests": tests, "rows": rows}
    write(options.output, results, began)  # kept if the benchmark crashes the machine
    if options.device == "cuda":
        rows += run_benchmark(python)
    write(options.output, results, began)
    outcomes = [test["outcome"] for test in tests]
    counts = ", ".join(f"{outcomes.count(name)} {name}" for name in sorted(set(outcomes)))
    measured = sum(row["ours"] is not None for row in rows)
    print(f"{counts or 'no test ran'}; {measured} of {len(rows)} rows measured; {results['seconds']} s")
    print(f"results in {options.output}; into docs/performance.md: {python} -m benchmarks.report {options.output}")
    return int(not outcomes or bool({"failed", "error"} & set(outcomes)))


def write(output: Path, results: dict[str, Any], began: float) -> None:
    """Write the file of results."""
    results["seconds"] = round(time.monotonic() - began)
    output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def requirements() -> list[str]:
    """Return the required packages besides the machine's torch."""
    import tomllib  # lazy, so that an older Python gets a clear message

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = [(line, re.split(r"[<>=!~;\[ ]", line)[0]) for line in project["dependencies"]]
    return [line for line, name in names if name not in PREINSTALLED] + list(TEST_REQUIREMENTS)


def environment(wheels: Path | None) -> Path:
    """Create an environment with the packages of this interpreter and missing ones; return its Python."""
    folder = FOLDER / "venv"
    venv.EnvBuilder(with_pip=False, clear=True, symlinks=os.name != "nt").create(folder)
    python = folder / "bin" / "python"
    (packages,) = folder.glob("lib/python*/site-packages")
    # Not by system-site-packages, which would ignore the packages of this interpreter if it is that of an environment.
    outside = [path for path in sys.path if path and Path(path).is_dir() and Path(path) != ROOT / "scripts"]
    (packages / "machine.pth").write_text("\n".join(outside) + "\n", encoding="utf-8")
    lacking = missing(requirements())
    source = ["--no-index", "--find-links", str(wheels.resolve())] if wheels else []
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-compile"]
    options = ["--disable-pip-version-check", "--no-warn-conflicts", *source]
    if lacking and subprocess.run([*command, *options, *lacking], check=False).returncode:
        print(
            f"Error: this machine lacks {', '.join(lacking)}, which could not be installed; without a network, run "
            "make gpu-wheels elsewhere and copy .gpu-wheels along",
            file=sys.stderr,
        )
        raise SystemExit(2)
    return python


def missing(required: list[str]) -> list[str]:
    """Return the requirements that this interpreter does not fulfill."""
    try:
        from pip._vendor.packaging.requirements import Requirement
    except ModuleNotFoundError:
        print(f"Error: {sys.executable} has no pip: `{sys.executable} -m ensurepip` adds it", file=sys.stderr)
        raise SystemExit(2) from None

    lacking = []
    for line in required:
        requirement = Requirement(line)
        try:
            is_installed = requirement.specifier.contains(version(requirement.name), prereleases=True)
        except PackageNotFoundError:
            is_installed = False
        if not is_installed:
            lacking.append(line)
    return lacking


def run_tests(python: Path, device: str) -> list[dict[str, Any]]:
    """Run tests/gpu; return each test's name, outcome, seconds, and recorded values or reason of failure."""
    report = FOLDER / "tests.xml"
    report.unlink(missing_ok=True)
    chosen = ["-m", "gpu"] if device == "cuda" else ["-k", "cpu and not cuda"]
    report_options = [f"--junitxml={report}", "-o", "junit_family=xunit1"]  # the format with recorded properties
    command = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/gpu", *chosen, *report_options]
    print("tests ...", file=sys.stderr, flush=True)
    # Plugins installed on the machine may be incompatible with this pytest.
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
        if (element := case.find(tag)) is not None:
            outcome, message = name, (element.get("message") or "").partition("\n")[0][:300]
    recorded = {item.get("name"): item.get("value") for item in case.iter("property")}
    result: dict[str, Any] = {"name": case.get("name"), "outcome": outcome, "seconds": float(case.get("time") or 0)}
    return result | ({"message": message} if message else {}) | ({"recorded": recorded} if recorded else {})


def _wait(process: subprocess.Popen[bytes], seconds: float) -> None:
    """Wait for pytest; after ``seconds`` interrupt it, so that it reports the tests so far, and then kill it."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        print(f"tests: stopped after {seconds:g} s", file=sys.stderr)
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(LAST_SECONDS)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # including remaining child processes


def run_benchmark(python: Path) -> list[dict[str, Any]]:
    """Run the parts of benchmarks.gpu; return their rows, an open one for each part that fails or takes too long."""
    ends = time.monotonic() + BENCHMARK_SECONDS
    return [row for part in PARTS for row in run_part(python, part, ends - time.monotonic())]


def run_part(python: Path, part: str, seconds: float) -> list[dict[str, Any]]:
    """Run one part of benchmarks.gpu within a time limit; return its rows."""
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
        last = (done.stderr.strip() or "no message").splitlines()[-1][:200].replace("|", "/")
        why = f"exit status {done.returncode}: {last}"
    blank = {"ours": None, "peer": None, "unit": "", "ratio": None}
    return [{"goal": "9", "what": f"GPU: {part}", **blank, "note": why}]


def _output_of(python: str, code: str) -> dict[str, Any]:
    try:
        done = subprocess.run([python, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    except subprocess.CalledProcessError:
        raise SystemExit(
            f"Error: {python} has no working torch: name one that has (make gpu-check GPU_PYTHON=…)"
        ) from None
    output: dict[str, Any] = json.loads(done.stdout)
    return output


if __name__ == "__main__":
    sys.exit(main())
