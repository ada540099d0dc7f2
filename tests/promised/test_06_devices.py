"""A device may be named by its number, and a missing one is refused with a message of this package."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.accelerators import CUDAAccelerator

from diffusion_lab import EMA, DiffusionSampler, create_ddpm, load_denoiser
from diffusion_lab.config import get_default_config, migrate_config_v1_to_v2, validate_config
from diffusion_lab.runs.folder import RunFolder
from diffusion_lab.runtime.precision import has_bfloat16
from diffusion_lab.training.create import create_trainer
from diffusion_lab.training.fit import train
from tests.commands.conftest import run_here
from tests.training.tiny import tiny_config, tiny_denoiser

TINY = (8, 1, 8, [1], 10, 20, "cosine", 0.0001, 0.02, 0.1, [False])
NOT_THERE = r"must be a device of this machine \(cpu, or auto\), got 'cuda:1'"


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that the machine has two GPUs."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(CUDAAccelerator, "is_available", staticmethod(lambda: True))
    monkeypatch.setattr(CUDAAccelerator, "auto_device_count", staticmethod(lambda: 2))


@pytest.mark.parametrize("name", ["cpu", "cpu:0", "cuda", "cuda:0", "cuda:1", "mps", "mps:0", "auto"])
def test_settings_accept_the_name_of_a_device(name: str, tmp_path: Path) -> None:
    config = get_default_config()
    config["compute"]["device"] = name
    config["data"]["paths"]["train"] = str(tmp_path)
    validate_config(config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that V1 is the old format
        assert migrate_config_v1_to_v2({"device": name, "model": {"image_size": 40}})["compute"]["device"] == name


@pytest.mark.parametrize(
    "call",
    [
        lambda: DiffusionSampler(tiny_denoiser(), device="cuda:1"),
        lambda: DiffusionSampler(model=tiny_denoiser(), device=torch.device("cuda", 1)),
        lambda: EMA(tiny_denoiser(), decay=0.9999, device="cuda:1"),
        lambda: EMA(tiny_denoiser()).to("cuda:1"),
        lambda: EMA(tiny_denoiser()).to(device="cuda:1"),
        lambda: EMA(tiny_denoiser()).to(torch.device("cuda:1"), torch.float64),
        lambda: create_ddpm(*TINY, "cuda:1"),
        lambda: create_ddpm(*TINY, device=torch.device("cuda:1")),
        lambda: load_denoiser("no/such/file.ckpt", device="cuda:1"),  # before the file is looked for
    ],
)
@pytest.mark.usefixtures("no_gpu")
def test_the_api_refuses_a_missing_device(call: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match=f"^device {NOT_THERE}$"):
        call()


@pytest.mark.parametrize("device", ["cpu", "cpu:0", "auto", torch.device("cpu"), torch.device("cpu", 0)])
@pytest.mark.usefixtures("no_gpu")
def test_the_api_accepts_a_name_or_a_device(device: str | torch.device) -> None:
    model = create_ddpm(*TINY, device)
    sampler = DiffusionSampler(model=model, device=device)
    assert sampler.device == torch.device("cpu")
    assert sampler.sample(2, [0, 9]).shape == (2, 1, 8, 8)


@pytest.mark.usefixtures("no_gpu")
def test_training_refuses_a_missing_device(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"^compute\.device {NOT_THERE}$"):
        train(tiny_config(tmp_path / "run", {"compute.device": "cuda:1"}))
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("no_gpu")
def test_both_commands_refuse_a_missing_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.pt").touch()
    for script, typed in (("train", ["compute.device=cuda:1"]), ("sample", ["ckpt=weights.pt", "device=cuda:1"])):
        with pytest.raises(SystemExit):
            run_here(script, typed)
        printed = capsys.readouterr().err
        assert "Error: compute.device must be a device of this machine (cpu, or auto), got 'cuda:1'" in printed
        assert "Torch not compiled" not in printed


@pytest.mark.parametrize(("name", "expected"), [("cuda:1", 1), ("cuda:0", 0), ("cuda", 0)])
@pytest.mark.usefixtures("two_gpus")
def test_the_trainer_uses_that_gpu(name: str, expected: int, tmp_path: Path) -> None:
    config = tiny_config(tmp_path, {"compute.device": name})
    trainer = create_trainer(config, torch.device(name), [], [], RunFolder.from_settings(config.output))
    assert trainer.strategy.root_device == torch.device("cuda", expected)
    assert trainer.device_ids == [expected]
    assert trainer.world_size == 1


def test_properties_are_those_of_the_named_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second GPU may be an older one without bfloat16."""
    current = torch.device("cuda", 0)

    @contextlib.contextmanager
    def device(chosen: torch.device) -> Iterator[None]:
        nonlocal current
        before, current = current, chosen
        yield
        current = before

    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: current.index == 0)
    assert has_bfloat16(torch.device("cuda"))
    assert has_bfloat16(torch.device("cuda", 0))
    assert not has_bfloat16(torch.device("cuda", 1))
