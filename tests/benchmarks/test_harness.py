"""Benchmark harness: alternating variants, ratios, rows and the command; no test uses the real clock."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path

import pytest

from benchmarks import __main__ as suite
from benchmarks import harness, report
from benchmarks.harness import Row, Timings, not_measured, time_alternately, time_in_processes


def row(**other) -> Row:
    return Row(**{"goal": "1", "what": "a step", "ours": 4.0, "peer": 2.0, "unit": "s", "ratio": 2.0} | other)


def test_variants_alternate_and_the_first_round_does_not_count():
    order, clock = [], count()
    taken = time_alternately(
        {name: lambda name=name: order.append(name) for name in "ab"}, rounds=2, warm_up=1, clock=clock.__next__
    )
    assert order == list("ababab")
    assert taken.seconds == {"a": [1, 1], "b": [1, 1]}


def write_process(path: Path) -> Callable[[], object]:
    with path.open("a") as file:
        file.write(f"made {os.getpid()}\n")
    return lambda: path.write_text(path.read_text() + f"taken {os.getpid()}\n")


def fail() -> Callable[[], object]:
    raise ValueError("no such network")


def test_separate_variants_are_created_once_each_in_its_own_process(tmp_path):
    taken = time_in_processes({name: partial(write_process, tmp_path / name) for name in "ab"}, rounds=2)
    assert [len(seconds) for seconds in taken.seconds.values()] == [2, 2]
    (a, processes_a), (b, processes_b) = (
        zip(*(line.split() for line in (tmp_path / name).read_text().splitlines()), strict=True) for name in "ab"
    )
    assert a == b == ("made", *["taken"] * 3)
    assert len({*processes_a, *processes_b, str(os.getpid())}) == 3


def test_an_error_in_a_separate_process_is_reported():
    with pytest.raises(RuntimeError, match="ValueError: no such network"):
        time_in_processes({"a": fail}, rounds=1)


def test_a_ratio_compares_within_a_round():
    """A machine that slows down by four halfway changes separate medians, but no ratio."""
    taken = Timings({"slow": [2.0, 2.0, 8.0], "fast": [1.0, 4.0, 4.0]})
    assert taken.ratio("slow", "fast") == 2
    assert taken.median("slow") == 2
    assert taken.median("fast") == 4


@pytest.mark.parametrize(
    ("bound", "at_least", "verdict"),
    [(2.0, True, "reached"), (2.1, True, "MISS"), (2.0, False, "reached"), (1.9, False, "MISS"), (None, True, "")],
)
def test_the_verdict_follows_from_ratio_and_bound(bound, at_least, verdict):
    assert row(bound=bound, at_least=at_least).verdict == verdict


def test_rows_that_were_not_measured_are_open_and_those_without_a_peer_are_not():
    assert not_measured("9", "a GPU", "none here").verdict == "open"
    assert row(peer=None, ratio=None).verdict == ""


@pytest.mark.parametrize(("ratio", "shown"), [(1.999, "2.00"), (0.1, "0.10"), (0.0123, "0.012"), (0, "0")])
def test_a_small_share_keeps_its_figures(ratio, shown):
    assert report.cells(row(ratio=ratio))[4] == shown


def test_the_table_shows_a_row_in_columns():
    lines = report.table([row(bound=3.0, share=0.5, note="somebody"), row(what="a longer name", ours=12345.0)])
    first, second, third = lines.splitlines()
    assert first.split() == ["goal", "measured", "ours", "peer", "ratio", "wanted", "of", "the", "limit", "note"]
    assert second.split() == ["1", "a", "step", "4", "s", "2", "s", "2.00", "≥", "3", "50%", "MISS", "somebody"]
    assert "12,345 s" in third
    assert second.index("4 s") == third.index("12,345 s")


def test_the_page_is_written_between_its_markers():
    text = "before\n<!-- results -->\nold\n<!-- /results -->\nafter\n"
    assert report.between(text, "results", "new") == "before\n<!-- results -->\nnew\n<!-- /results -->\nafter\n"
    with pytest.raises(ValueError, match="no markers <!-- other -->"):
        report.between(text, "other", "new")


def test_the_page_has_a_place_for_the_results():
    page = report.PAGE.read_text(encoding="utf-8")
    results = {"machine": {"limit_gflops": {"float32": 99.6}, "system": "Linux", "torch": "2", "threads": 2}}
    results["machine"]["instructions"] = "AVX2"
    results["rows"] = [vars(row(what="a step of tests"))]
    written = report.between(page, "results", report.describe(results))
    assert "100 GFLOP/s in float32" in written
    assert "| 1 | a step of tests | 4 s | 2 s | 2.00 |" in written


def test_a_command_prints_rows_as_json(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["x", "--json", "--checkpoint", "here"])
    seen = []
    harness.command("x", lambda checkpoint: seen.append(checkpoint) or [row()], checkpoint="there")
    assert seen == ["here"]
    assert [Row(**entry) for entry in json.loads(capsys.readouterr().out)["rows"]] == [row()]


@pytest.fixture
def processes(tmp_path, monkeypatch):
    """Benchmark suite of scripts in a temporary folder."""
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    (folder / "__init__.py").touch()
    monkeypatch.setattr(suite, "ROOT", tmp_path)
    monkeypatch.setattr(suite, "RESULTS", tmp_path / "outputs" / "results.json")
    monkeypatch.setattr(suite, "machine", dict)
    monkeypatch.setattr(suite, "plot", lambda rows, path: None)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    return lambda name, text: (folder / f"{name}.py").write_text(text)


def test_each_benchmark_runs_in_its_process_and_a_failure_does_not_stop_the_others(processes, tmp_path, capsys):
    processes("good", f"print({json.dumps({'rows': [vars(row(goal='7', bound=3.0))]})!r})")
    processes("bad", "raise SystemExit('no')")
    processes("odd", "print('hello')")
    assert suite.main(["good", "bad", "odd"]) == 1
    table = capsys.readouterr().out
    assert "MISS" in table
    assert "failed with exit status 1" in table
    assert "did not print JSON" in table
    results = json.loads((tmp_path / "outputs" / "results.json").read_text())
    assert results["benchmarks"]["good"]["rows"][0]["goal"] == "7"
    assert len(results["rows"]) == 3


def test_a_missed_goal_does_not_fail_the_command(processes):
    processes("good", f"print({json.dumps({'rows': [vars(row(bound=3.0))]})!r})")
    assert suite.main(["good"]) == 0


def test_a_benchmark_over_the_time_limit_is_stopped(processes):
    processes("slow", "import time; time.sleep(60)")
    (entry,) = suite.run("slow", minutes=0.005)["rows"]
    assert entry["note"] == "not done after 0.005 minutes"
