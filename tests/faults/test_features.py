"""Cache of features of real images: damaged, killed while it is written, and used by two programs at once."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load

from tests.faults.conftest import Start
from tests.programs import Program

pytestmark = pytest.mark.faults

COMPUTE = ("-m", "diffusion_lab.features", "compute", "digits", "--features", "pixels", "--cache-dir", "cache")
WRITTEN, THERE = ": every later evaluation", ": nothing is computed"


def cached_file(work: Path) -> Path:
    (file,) = (work / "cache").rglob("*.safetensors")
    return file


def test_a_damaged_cache_is_recomputed(start: Start, tmp_path: Path) -> None:
    """Row 29."""
    work = tmp_path / "work"
    first = start(*COMPUTE)
    assert first.wait() == 0, first.err
    assert WRITTEN in first.out
    written = cached_file(work).read_bytes()
    damaged = bytearray(written)
    damaged[len(damaged) // 2] ^= 1
    cached_file(work).write_bytes(damaged)
    second = start(*COMPUTE)
    assert second.wait() == 0, second.err
    assert "is damaged (its checksum is wrong): it is recomputed" in second.err
    assert WRITTEN in second.out
    whole, again = load(written), load(cached_file(work).read_bytes())
    assert again.keys() == whole.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in whole.items())


def test_killed_while_the_cache_is_written(start: Start, tmp_path: Path) -> None:
    """Row 29."""
    killed = start(*COMPUTE, env=Program.paused_at("tensors.safetensors", 1))  # written, but not renamed yet
    killed.wait_until_paused()
    killed.signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    again = start(*COMPUTE)
    assert again.wait() == 0, again.err
    assert WRITTEN in again.out
    folder = cached_file(tmp_path / "work").parent
    assert sorted(file.name for file in folder.iterdir()) == [".lock", "tensors.safetensors"]


def test_two_programs_compute_once(start: Start, tmp_path: Path) -> None:
    """Row 30."""
    first = start(*COMPUTE, env=Program.paused_at("tensors.safetensors", 1))
    first.wait_until_paused()
    second = start(*COMPUTE)
    second.until(lambda: "another process is computing the same features" in second.err)
    first.go_on()
    assert first.wait() == 0, first.err
    assert second.wait() == 0, second.err
    assert WRITTEN in first.out
    assert THERE in second.out
