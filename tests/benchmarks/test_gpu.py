"""The benchmark of a GPU: its code, run on a CPU; its rows, left open where there is no GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from benchmarks import gpu


def test_without_a_device_every_row_is_open(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    rows = gpu.measure()
    assert {(row.goal, row.verdict, row.note) for row in rows} == {("9", "open", "no CUDA device here")}


def test_unet_base_is_that_of_the_settings():
    told = OmegaConf.load(Path(gpu.__file__).parents[1] / "conf" / "model" / "unet_base.yaml")
    assert {name: told[name] for name in gpu.UNET_BASE} | {"image_size": 64} == gpu.UNET_BASE


def test_all_of_it_runs_on_a_cpu(monkeypatch):
    pytest.importorskip("diffusers")
    smaller = {"image_size": 16, "model_channels": 32, "channel_multipliers": [1, 2], "use_attention": [False, True]}
    monkeypatch.setattr(gpu, "UNET_BASE", {**gpu.UNET_BASE, **smaller, "head_channels": 32})
    for name, value in {"BATCH": 2, "STEPS": 2, "SAMPLING_STEPS": 2, "LIMIT_SIZE": 64, "ROUNDS": 1}.items():
        monkeypatch.setattr(gpu, name, value)
    monkeypatch.setattr(gpu, "BACKENDS", dict.fromkeys(gpu.BACKENDS))
    rows = gpu.measure("cpu")
    assert [row.bound for row in rows] == [1.5, None, 1.02, 1.5]
    assert all(row.ours and row.peer and row.ratio for row in rows)
    assert rows[0].share
