"""Each performance setting is measured without and with it, and the result is in docs/performance.md."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from benchmarks import flags, report

SETTINGS = ["use_amp", "use_tf32", "cudnn_benchmark", "compile_model", "channels-last"]
PAGE = Path(__file__).resolve().parents[2] / "docs" / "performance.md"


def table() -> list[list[str]]:
    """Return the cells of each row."""
    found = re.search(r"<!-- flags -->\n(.*?)<!-- /flags -->", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in found[1].splitlines() if line.startswith("|")]
    assert tuple(rows[0]) == report.HEADINGS
    return rows[2:]


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_page_has_its_figures_or_the_reason_for_missing_ones(setting: str) -> None:
    rows = [dict(zip(report.HEADINGS, row, strict=True)) for row in table() if setting in row[1]]
    assert rows
    for row in rows:
        if row["ours"]:
            without, with_it = (float(row[name].split()[0].replace(",", "")) for name in ("peer", "ours"))
            assert without > 0
            assert with_it > 0
            assert float(row["ratio"]) > 0
        else:
            assert row["note"]


def test_the_command_measures_before_and_after(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flags, "ROUNDS", 1)
    monkeypatch.setattr(flags, "WARM_UP", 0)
    small = {**flags.GOALS.architecture, "model_channels": 8, "channel_multipliers": [1], "use_attention": [False]}
    monkeypatch.setattr(flags, "GOALS", flags.Work(small, 2))
    before = torch.backends.cudnn.benchmark
    rows = flags.measure("cpu")
    assert all(any(setting in row.what for row in rows) for setting in SETTINGS)
    measured = [row for row in rows if row.verdict != "open"]
    assert {row.what.partition(":")[0] for row in measured} >= {"channels-last memory format"}
    assert all(row.ours and row.peer and row.ratio for row in measured)
    assert torch.backends.cudnn.benchmark is before
