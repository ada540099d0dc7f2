from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from diffusion_lab.checkpoint import find_checkpoint
from diffusion_lab.runtime.determinism import CUBLAS_VARIABLE, deterministic, seed_default_generators
from diffusion_lab.training.module import DiffusionModule
from tests.training.test_resume import assert_equal
from tests.training.tiny import saved, tiny_run


def state() -> tuple[bool, bool, bool, str | None]:
    cudnn = torch.backends.cudnn
    variable = os.environ.get(CUBLAS_VARIABLE)
    return torch.are_deterministic_algorithms_enabled(), cudnn.deterministic, cudnn.benchmark, variable


def test_determinism_holds_inside_the_block_only() -> None:
    before = state()
    with deterministic(True):
        assert state() == (True, True, False, ":4096:8")
    assert state() == before


def test_default_generators_are_seeded_as_by_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    seed_default_generators(7, torch.device("cpu"))
    assert torch.equal(torch.rand(3), expected)
    seeds: list[tuple[object, int]] = []
    current: list[object] = ["current"]

    @contextlib.contextmanager
    def device(chosen: object) -> Iterator[None]:
        current.append(chosen)
        yield
        current.pop()

    monkeypatch.setattr(torch.cuda, "manual_seed", lambda seed: seeds.append((current[-1], seed)))
    monkeypatch.setattr(torch.cuda, "device", device)
    for name in ("cuda", "cuda:0", "cuda:1"):
        seed_default_generators(7, torch.device(name))
    assert torch.equal(torch.rand(3), expected)
    assert seeds == [("current", 7), (torch.device("cuda:0"), 7), (torch.device("cuda:1"), 7)]


def test_disabled_determinism_changes_nothing() -> None:
    before = state()
    with deterministic(False):
        assert state() == before


def test_two_runs_with_the_same_seed_are_equal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The runs use deterministic algorithms."""
    seen = []
    monkeypatch.setattr(DiffusionModule, "on_train_start", lambda self: seen.append(state()[0]), raising=False)
    for name in ("one", "two"):
        tiny_run(tmp_path / name, {"compute.deterministic": True, "training.epochs": 1})
    one, two = (saved(find_checkpoint(tmp_path / name, "last")) for name in ("one", "two"))
    assert_equal(one["state_dict"], two["state_dict"])
    assert_equal(one["optimizer_states"], two["optimizer_states"])
    assert seen == [True, True]
