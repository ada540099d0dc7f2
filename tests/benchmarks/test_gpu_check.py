"""`make gpu-check` without a GPU: what it needs, what it says, and what it writes."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
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
    wanted = ["pytest>=8", "no-such-package-at-all>=1", "hypothesis>=1000"]
    assert gpu_check.missing(wanted) == wanted[1:]
    assert gpu_check.missing(gpu_check.requirements()) == []  # all of it is here


def test_what_it_writes_is_what_the_report_reads(
    gpu_check: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks import report

    (tmp_path / "tests.xml").write_text("")
    monkeypatch.setattr(gpu_check, "FOLDER", tmp_path)
    monkeypatch.setattr(gpu_check, "environment", lambda wheels: Path(sys.executable))

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        target = next(part for part in command if part.startswith("--junitxml=")).partition("=")[2]
        Path(target).write_text(
            '<testsuites><testsuite><testcase name="a" time="0.5"><properties><property name="difference" value="0.1"/>'
            '</properties></testcase><testcase name="b" time="1"><failure message="assert 1&#10;more"/></testcase>'
            '<testcase name="c" time="0"><skipped message="no"/></testcase></testsuite></testsuites>'
        )
        return subprocess.CompletedProcess(command, 1)

    about = gpu_check._told(sys.executable, gpu_check.ABOUT)
    monkeypatch.setattr(gpu_check, "_told", lambda python, code: about)
    monkeypatch.setattr(gpu_check.subprocess, "run", run)
    assert gpu_check.main(["--device", "cpu", "--output", str(tmp_path / "results.json")]) == 1
    found = json.loads((tmp_path / "results.json").read_text())
    assert [(test["name"], test["outcome"]) for test in found["tests"]] == [
        ("a", "passed"),
        ("b", "failed"),
        ("c", "skipped"),
    ]
    assert found["tests"][0]["recorded"] == {"difference": "0.1"}
    assert found["tests"][1]["message"] == "assert 1"
    assert "1 failed, 1 passed, 1 skipped" in report.describe_gpu(found)


def test_a_benchmark_that_breaks_or_takes_too_long_is_a_row(gpu_check: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.harness import Row

    def late(command: list[str], timeout: float, **_: Any) -> None:
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(gpu_check.subprocess, "run", late)
    (row,) = gpu_check.run_benchmark(Path(sys.executable))
    assert (Row(**row).verdict, row["note"]) == ("open", f"not done after {gpu_check.BENCHMARK_SECONDS} s")
    broken = subprocess.CompletedProcess([], 3, stdout="no JSON")
    monkeypatch.setattr(gpu_check.subprocess, "run", lambda *_, **__: broken)
    assert gpu_check.run_benchmark(Path(sys.executable))[0]["note"] == "broke with exit status 3"


def test_without_a_cuda_device_it_says_so(gpu_check: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(gpu_check, "_told", lambda python, code: {"torch": "2.13.0", "gpu": None})
    assert gpu_check.main([]) == 2
    assert "finds no CUDA device" in capsys.readouterr().err


def test_the_limits_leave_room_within_eight_minutes(gpu_check: Any) -> None:
    assert gpu_check.TEST_SECONDS + gpu_check.BENCHMARK_SECONDS <= 8 * 60 - 60
