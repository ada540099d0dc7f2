"""`make gpu-check` without a GPU: requirements, messages and results."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "gpu_check.py"


@pytest.fixture(scope="module")
def gpu_check() -> Any:
    spec = importlib.util.spec_from_file_location("gpu_check", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_torch_is_the_machines_own(gpu_check: Any) -> None:
    names = {line.partition(">")[0].partition("=")[0] for line in gpu_check.requirements()}
    assert not names & {"torch", "torchvision"}
    assert names >= {"lightning", "hydra-core", "pydantic", "pytest", "hypothesis", "diffusers"}


def test_only_what_the_machine_lacks_is_installed(gpu_check: Any) -> None:
    required = ["pytest>=8", "no-such-package-at-all>=1", "hypothesis>=1000"]
    assert gpu_check.missing(required) == required[1:]
    assert gpu_check.missing(gpu_check.requirements()) == []  # all of it is here


def test_the_results_can_be_read_by_the_report(gpu_check: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import report

    (tmp_path / "tests.xml").write_text("")
    monkeypatch.setattr(gpu_check, "FOLDER", tmp_path)
    monkeypatch.setattr(gpu_check, "environment", lambda wheels: Path(sys.executable))

    def tested(command: list[str], **_: Any) -> subprocess.Popen[bytes]:
        target = next(part for part in command if part.startswith("--junitxml=")).partition("=")[2]
        Path(target).write_text(
            '<testsuites><testsuite><testcase name="a" time="0.5"><properties><property name="difference" value="0.1"/>'
            '</properties></testcase><testcase name="b" time="1"><failure message="assert 1&#10;more"/></testcase>'
            '<testcase name="c" time="0"><skipped message="no"/></testcase></testsuite></testsuites>'
        )
        return start([sys.executable, "-c", ""], start_new_session=True)

    start = subprocess.Popen
    about = gpu_check._output_of(sys.executable, gpu_check.ABOUT)
    monkeypatch.setattr(gpu_check, "_output_of", lambda python, code: about)
    monkeypatch.setattr(gpu_check.subprocess, "Popen", tested)
    assert gpu_check.main(["--device", "cpu", "--output", str(tmp_path / "results.json")]) == 1
    results = json.loads((tmp_path / "results.json").read_text())
    assert [(test["name"], test["outcome"]) for test in results["tests"]] == [
        ("a", "passed"),
        ("b", "failed"),
        ("c", "skipped"),
    ]
    assert results["tests"][0]["recorded"] == {"difference": "0.1"}
    assert results["tests"][1]["message"] == "assert 1"
    assert "1 failed, 1 passed, 1 skipped" in report.describe_gpu(results)


REPORTS_WHEN_INTERRUPTED = """
import subprocess, sys, time
left = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
try:
    print(left.pid, flush=True)
    time.sleep(1000)
except KeyboardInterrupt:
    print("reported", flush=True)
"""


def test_tests_over_the_time_limit_report_finished_ones_and_leave_no_process(gpu_check: Any) -> None:
    command = [sys.executable, "-c", REPORTS_WHEN_INTERRUPTED]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        process.stdout.readline()  # of a process that has begun
        gpu_check._wait(process, 0)
        assert process.stdout.read() == "reported\n"  # read to the end: nobody holds it open any more


def test_plugins_of_the_machine_are_not_loaded(gpu_check: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {}

    def started(command: list[str], env: dict[str, str], **_: Any) -> Any:
        environment.update(env)
        raise InterruptedError

    monkeypatch.setattr(gpu_check, "FOLDER", tmp_path)
    monkeypatch.setattr(gpu_check.subprocess, "Popen", started)
    with pytest.raises(InterruptedError):
        gpu_check.run_tests(Path(sys.executable), "cuda")
    assert environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] == "1"


def test_a_part_that_fails_or_takes_too_long_becomes_an_open_row(
    gpu_check: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks import gpu
    from benchmarks.harness import Row

    good = json.dumps({"rows": [asdict(Row("9", "steps", 2.0, 1.0, "images/s", 2.0, 1.5))]})

    def run(command: list[str], timeout: float, **_: Any) -> subprocess.CompletedProcess[str]:
        part = command[-1]
        if part == "data":
            raise subprocess.TimeoutExpired(command, timeout)
        if part == "CUDA graphs":
            return subprocess.CompletedProcess(command, 1, "", "Traceback\nRuntimeError: a | b\n")
        return subprocess.CompletedProcess(command, 0, good, "")

    monkeypatch.setattr(gpu_check.subprocess, "run", run)
    assert set(gpu_check.PARTS) == set(gpu.PARTS)
    rows = {row.what: row for row in (Row(**row) for row in gpu_check.run_benchmark(Path(sys.executable)))}
    assert {what: row.verdict for what, row in rows.items()} == {
        "steps": "reached",
        "GPU: data": "open",
        "GPU: CUDA graphs": "open",
    }
    assert rows["GPU: data"].note == f"not done within the {gpu_check.BENCHMARK_SECONDS} s of all parts"
    assert rows["GPU: CUDA graphs"].note == "exit status 1: RuntimeError: a / b"


def test_without_pip_it_says_so(gpu_check: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setitem(sys.modules, "pip._vendor.packaging.requirements", None)
    with pytest.raises(SystemExit):
        gpu_check.missing(["pytest"])
    assert "has no pip" in capsys.readouterr().err


def test_without_a_cuda_device_it_says_so(gpu_check: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(gpu_check, "_output_of", lambda python, code: {"torch": "2.13.0", "gpu": None})
    assert gpu_check.main([]) == 2
    assert "finds no CUDA device" in capsys.readouterr().err


def test_all_other_packages_are_provided_for_a_machine_with_only_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import gpu_wheels

    names = gpu_wheels.all_names()
    assert names >= {
        "lightning",
        "aiohttp",
        "hydra-core",
        "antlr4-python3-runtime",
        "numpy",
        "pytest",
        "pluggy",
        "zipp",
    }
    assert not {name for name in names if name in ("torch", "torchvision", "triton") or name.startswith("nvidia")}
    assert {name.replace("_", "-") for name in gpu_wheels.NAMES} <= names  # none of these has become needless


def test_the_limits_leave_room_within_eight_minutes(gpu_check: Any) -> None:
    assert gpu_check.TEST_SECONDS + gpu_check.LAST_SECONDS + gpu_check.BENCHMARK_SECONDS <= 8 * 60 - 50
