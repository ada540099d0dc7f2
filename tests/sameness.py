"""Comparison of two runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from diffusion_lab.checkpoint import find_checkpoint, load_tensors

TIMES = ("seconds",)
"""Fields of a line of metrics that may differ."""


def assert_same_run(found: Path, expected: Path) -> None:
    """Assert bitwise equal weights, averages, optimizer, schedule, metrics and sample images."""
    assert_same_state(found, expected)
    assert metrics(found) == metrics(expected)
    pictures = [{file.name: file.read_bytes() for file in (run / "samples").iterdir()} for run in (found, expected)]
    assert pictures[0].keys() == pictures[1].keys()
    assert pictures[0] == pictures[1]


def assert_same_state(found: Path, expected: Path) -> None:
    """Assert bitwise equal weights, averages, optimizer and schedule in the last checkpoints of two run folders."""
    one, other = (load_tensors(find_checkpoint(run, "last")) for run in (found, expected))
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "global_step"):
        assert_equal(one[part], other[part], part)


def metrics(run: Path) -> list[dict[str, Any]]:
    """Return the lines of ``metrics.jsonl`` without times."""
    lines = [json.loads(line) for line in (run / "logs" / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMES} for line in lines]


def assert_equal(found: Any, expected: Any, where: str = "") -> None:
    """Compare bitwise, through all containers."""
    if isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected), where
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for key in expected:
            assert_equal(found[key], expected[key], f"{where}.{key}")
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected), where
        for index, (one, other) in enumerate(zip(found, expected, strict=True)):
            assert_equal(one, other, f"{where}[{index}]")
    else:
        assert found == expected, where
