"""Number of threads of a run, from free cores and the work of its network."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from rich.console import Console

from diffusion_lab.checkpoint import find_checkpoint
from diffusion_lab.config import ConfigWarning
from diffusion_lab.runtime import threads
from diffusion_lab.runtime.devices import use_threads
from diffusion_lab.runtime.threads import CoreTimes, bound_spinning, choose_threads
from tests.training.tiny import resume_of, saved, tiny_run

LARGE = 64 * threads.FLOPS_PER_THREAD


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def machine(monkeypatch: pytest.MonkeyPatch, usable: int, free: float) -> None:
    monkeypatch.setattr(threads, "usable_cores", lambda: usable)
    monkeypatch.setattr(threads, "free_cores", lambda: free)


class TestSpinning:
    def test_spinning_is_bounded_by_default(self) -> None:
        environment: dict[str, str] = {}
        bound_spinning(environment)
        assert environment == {"GOMP_SPINCOUNT": str(threads.SPIN_COUNT)}

    @pytest.mark.parametrize("typed", [{"OMP_WAIT_POLICY": "ACTIVE"}, {"GOMP_SPINCOUNT": "7"}])
    def test_user_settings_stay(self, typed: dict[str, str]) -> None:
        environment = dict(typed)
        bound_spinning(environment)
        assert environment == typed

    def test_set_before_torch_is_imported(self) -> None:
        """The package sets it, whichever part of it is imported first."""
        assert any(name in os.environ for name in threads.SPIN_VARIABLES)


class TestChoice:
    @pytest.mark.parametrize(
        ("free", "expected"),
        [(8.0, 8), (6.9, 7), (1.2, 1), (0.1, 1)],
        ids=["quiet", "one core busy", "most cores busy", "all cores busy"],
    )
    def test_free_cores_limit_the_threads(self, monkeypatch: pytest.MonkeyPatch, free: float, expected: int) -> None:
        machine(monkeypatch, 8, free)
        assert choose_threads(LARGE, most=8) == expected

    @pytest.mark.parametrize(("share", "expected"), [(0.9, 1), (1.5, 1), (2.5, 2), (100.0, 8)])
    def test_work_of_the_network_limits_the_threads(
        self, monkeypatch: pytest.MonkeyPatch, share: float, expected: int
    ) -> None:
        machine(monkeypatch, 8, 8.0)
        assert choose_threads(share * threads.FLOPS_PER_THREAD, most=8) == expected

    def test_unknown_work_uses_all_free_cores(self, monkeypatch: pytest.MonkeyPatch) -> None:
        machine(monkeypatch, 8, 5.0)
        assert choose_threads(None, most=8) == 5

    @pytest.mark.parametrize(("workers", "expected"), [(0, 4), (1, 3), (3, 1), (9, 1)])
    def test_loader_workers_get_their_own_cores(
        self, monkeypatch: pytest.MonkeyPatch, workers: int, expected: int
    ) -> None:
        machine(monkeypatch, 4, 4.0)
        assert choose_threads(LARGE, most=4, loader_workers=workers) == expected

    def test_no_more_than_the_environment_allows(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """OMP_NUM_THREADS is torch's own number of threads."""
        machine(monkeypatch, 8, 8.0)
        assert choose_threads(LARGE, most=3) == 3


class TestFreeCores:
    def test_idle_time_and_own_time_count_as_free(self) -> None:
        before = CoreTimes(at=10.0, idle=100.0, own=1.0)
        assert before.free_cores(CoreTimes(at=12.0, idle=101.0, own=2.5)) == pytest.approx(1.25)

    def test_all_cores_count_as_free_if_unknown(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(threads, "usable_cores", lambda: 6)
        assert CoreTimes(0, None, 0).free_cores(CoreTimes(1, 5.0, 0)) == 6

    def test_only_allowed_cores_count(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        ticks = os.sysconf("SC_CLK_TCK")
        lines = ["cpu 1 1 1 999 9 0", f"cpu0 1 1 1 {5 * ticks} {ticks} 0", f"cpu1 1 1 1 {7 * ticks} 0 0", "intr 1 2"]
        (tmp_path / "stat").write_text("\n".join(lines))
        monkeypatch.setattr(threads, "PROC_STAT", tmp_path / "stat")
        monkeypatch.setattr(threads, "_allowed_cores", lambda: {0})
        assert CoreTimes.now().idle == 6
        monkeypatch.setattr(threads, "_allowed_cores", lambda: {0, 1})
        assert CoreTimes.now().idle == 13
        (tmp_path / "stat").write_text("no numbers")
        assert CoreTimes.now().idle is None

    def test_old_measurement_is_repeated(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The measurement at import is outdated."""
        now = time.monotonic()
        times = [CoreTimes(now, 0.0, 0.0), CoreTimes(now + threads.SHORTEST_LOOK, 0.0, threads.SHORTEST_LOOK)]
        monkeypatch.setattr(threads, "_at_import", CoreTimes(now - 2 * threads.MAX_LOOK, -1000.0, 0.0))
        monkeypatch.setattr(threads.time, "sleep", lambda seconds: None)
        monkeypatch.setattr(CoreTimes, "now", classmethod(lambda cls: times.pop(0)))
        monkeypatch.setattr(threads, "usable_cores", lambda: 4)
        assert threads.free_cores() == pytest.approx(1.0)


@pytest.mark.parametrize(("content", "expected"), [("200000 100000\n", 2), ("50000 100000\n", 1), ("max 100000\n", 16)])
def test_a_control_groups_quota_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str, expected: int
) -> None:
    (tmp_path / "cpu.max").write_text(content)
    monkeypatch.setattr(threads, "CPU_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(threads, "_allowed_cores", lambda: set(range(16)))
    assert threads.usable_cores() == expected


def test_previous_number_of_threads_is_restored() -> None:
    before = torch.get_num_threads()
    with use_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


class TestRuns:
    def test_a_typed_number_is_used_and_reported(self, tmp_path: Path) -> None:
        with (tmp_path / "output.txt").open("w") as file:
            tiny_run(tmp_path / "run", {"compute.threads": 2}, Console(file=file, width=200))
        assert "cpu (2 threads), float32" in (tmp_path / "output.txt").read_text()
        assert json.loads((tmp_path / "run" / "summary.json").read_text())["threads"] == 2
        assert saved(find_checkpoint(tmp_path / "run", "last"))["diffusion_lab"]["threads"] == 2

    def test_tiny_network_uses_one_thread(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        machine(monkeypatch, 4, 4.0)
        torch.set_num_threads(4)
        assert tiny_run(tmp_path).threads == 1
        assert torch.get_num_threads() == 4

    def test_resumed_run_uses_the_same_number(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """Another number would round the sums of gradients otherwise."""
        torch.set_num_threads(4)
        tiny_run(tmp_path / "a", {"training.epochs": 1, "compute.threads": 2})
        machine(monkeypatch, 4, 1.0)
        monkeypatch.setattr("diffusion_lab.training.prepare.free_cores", lambda: 1.0)
        resumed = resume_of(find_checkpoint(tmp_path / "a", "last"))
        with pytest.warns(ConfigWarning, match=r"leave only 1 free: compute\.threads=1 may be faster"):
            assert tiny_run(tmp_path / "b", resumed).threads == 2
