"""The GPU benchmark: its code, run on a CPU; its rows, open where there is no GPU."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from benchmarks import flags, gpu, report
from benchmarks.harness import Row

SMALLER = {
    "image_size": 16,
    "model_channels": 32,
    "channel_multipliers": [1, 2],
    "use_attention": [False, True],
    "head_channels": 32,
}


def test_without_a_device_every_row_is_open(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    rows = gpu.measure()
    assert {(row.goal, row.verdict, row.note) for row in rows} == {("9", "open", "no CUDA device here")}
    assert [row.what for row in rows] == [f"GPU: {part}" for part in gpu.PARTS]


def test_diffusers_is_the_only_peer_needed(monkeypatch):
    """`make gpu-check` installs no other peer."""
    monkeypatch.setattr(gpu, "PARTS", {"data": lambda device: [Row("9", str(device), 1.0, None, "", None)]})
    monkeypatch.setitem(sys.modules, "denoising_diffusion_pytorch", None)
    monkeypatch.setattr(gpu, "find_spec", lambda name: object() if name == "diffusers" else None)
    assert [row.what for row in gpu.measure("cpu")] == ["cpu"]
    monkeypatch.setattr(gpu, "find_spec", lambda name: None)
    assert [(row.verdict, row.note) for row in gpu.measure("cpu")] == [("open", "needs diffusers, of the extra peers")]


def test_a_network_that_could_not_be_compiled_has_no_figures(monkeypatch):
    def uncompiled(device: torch.device) -> list[Row]:
        network = gpu.our_denoiser(device, lambda *_: 1 / 0).network
        network(torch.randn(2, *gpu.image_shape()), torch.rand(2))
        return []

    monkeypatch.setattr(gpu, "UNET_BASE", {**gpu.UNET_BASE, **SMALLER})
    monkeypatch.setattr(gpu, "PARTS", {"data": uncompiled})
    with pytest.raises(UserWarning, match="the network runs without being compiled"):
        gpu.measure("cpu")


def test_sampling_uses_the_measured_device(monkeypatch):
    """The default device of the sampler is the CPU."""
    pytest.importorskip("diffusers")
    devices = []

    class Noted(gpu.DiffusionSampler):
        def __init__(self, *given, **named):
            super().__init__(*given, **named)
            devices.append(self.device.type)
            raise InterruptedError

    monkeypatch.setattr(gpu, "UNET_BASE", {**gpu.UNET_BASE, **SMALLER})
    monkeypatch.setattr(gpu, "BACKENDS", dict.fromkeys(gpu.BACKENDS))
    monkeypatch.setattr(gpu, "DiffusionSampler", Noted)
    with pytest.raises(InterruptedError):
        gpu.sampling(torch.device("meta"))  # a device that is there everywhere, and is not the default
    assert devices == ["meta"]


def test_an_unknown_part_is_refused():
    with pytest.raises(SystemExit, match=r"--part must be all or one of training step, bf16, .*, got sampling"):
        gpu.measure("cpu", part="sampling")


def test_unet_base_matches_its_config_file():
    config = OmegaConf.load(Path(gpu.__file__).parents[1] / "conf" / "model" / "unet_base.yaml")
    assert {name: config[name] for name in gpu.UNET_BASE} | {"image_size": 64} == gpu.UNET_BASE


def test_all_parts_run_on_a_cpu(monkeypatch):
    pytest.importorskip("diffusers")
    monkeypatch.setattr(gpu, "UNET_BASE", {**gpu.UNET_BASE, **SMALLER})
    for name, value in {"BATCH": 2, "STEPS": 2, "SAMPLING_STEPS": 2, "LIMIT_SIZE": 64, "ROUNDS": 1}.items():
        monkeypatch.setattr(gpu, name, value)
    monkeypatch.setattr(gpu, "BACKENDS", dict.fromkeys(gpu.BACKENDS))
    parts = {name: part for name, part in gpu.PARTS.items() if name != "performance settings"}
    monkeypatch.setattr(gpu, "PARTS", parts)  # has its own tests
    rows = gpu.measure("cpu")
    assert [row.bound for row in rows] == [1.5, None, 1.02, 1.5]
    assert all(row.ours and row.peer and row.ratio for row in rows)
    assert rows[0].share


def test_the_performance_settings_are_measured_at_the_size_of_the_others(monkeypatch):
    works = []
    monkeypatch.setattr(flags, "rows_of", lambda flag, device, work: works.append(work) or [])
    gpu.settings(torch.device("cpu"))
    assert works == [flags.Work(gpu.UNET_BASE, gpu.BATCH)] * len(flags.FLAGS)


def test_the_gpu_report_replaces_its_part_of_the_page(tmp_path, monkeypatch):
    page = tmp_path / "performance.md"
    shutil.copy(report.PAGE, page)
    monkeypatch.setattr(report, "PAGE", page)
    rows = [asdict(Row("9", "training step", 100.0, 50.0, "images/s", 2.0, 1.5, note="diffusers"))]
    tests = [
        {"name": "test_a[cuda]", "outcome": "passed", "seconds": 1.0, "recorded": {"largest difference": "0.00012"}},
        {"name": "test_b[cuda]", "outcome": "failed", "seconds": 1.0, "message": "assert 1 == 2"},
    ]
    machine = {"python": "3.12.3", "torch": "2.11.0", "cuda": "13.0", "gpu": "NVIDIA X", "memory_gib": 80}
    (tmp_path / "results.json").write_text(
        json.dumps({"machine": machine, "tests": tests, "rows": rows, "seconds": 400})
    )
    before = page.read_text()
    report.main(tmp_path / "results.json")
    after = page.read_text()
    part = after.partition("<!-- gpu -->")[2].partition("<!-- /gpu -->")[0]
    for words in (
        "NVIDIA X, torch 2.11.0, CUDA 13.0, Python 3.12.3; 1 failed, 1 passed in 400 s",
        "- failed: `test_b[cuda]`: assert 1 == 2",
        "| `test_a[cuda]` | largest difference | 0.00012 |",
        "| 9 | training step | 100 images/s | 50 images/s | 2.00 | ≥ 1.5 |  | reached | diffusers |",
    ):
        assert words in part
    assert after.replace(part, "") == before.replace(
        before.partition("<!-- gpu -->")[2].partition("<!-- /gpu -->")[0], ""
    )
