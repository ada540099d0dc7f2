"""Training on a GPU: every precision, compiled, resumed, averaged, loaded, and out of memory."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from diffusion_lab.checkpoint import find_checkpoint, load_denoiser, load_tensors
from diffusion_lab.data.datamodule import ImageDataModule
from diffusion_lab.ema import EMA
from diffusion_lab.samplers import DDIMSampler
from diffusion_lab.sampling import DiffusionSampler
from diffusion_lab.training.module import DiffusionModule
from tests.training.tiny import TinySource, tiny_denoiser, tiny_run

SHOWN = {"training.visualization.enabled": True, "training.visualization.num_samples": 3}
RESUME = {"enabled": True, "checkpoint": "auto", "reset_optimizer": False, "reset_scheduler": False}


def losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "logs" / "metrics.jsonl").read_text().splitlines()]
    return [value for line in lines for name, value in line.items() if name.endswith("/loss")]


@pytest.mark.parametrize("compiled", [False, True], ids=["plain", "compiled"])
@pytest.mark.parametrize("precision", [32, "bf16", "fp16"])
def test_one_epoch(device: str, tmp_path: Path, precision: str | int, compiled: bool) -> None:
    """Train, validate, sample images, save, and sample on a CPU."""
    if device == "cpu":  # where float16 has no gradients, and compiling takes a minute
        precision, compiled = "bf16" if precision == "fp16" else precision, False
    settings = {"training.performance.precision": precision, "training.performance.compile_model": compiled}
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="the network runs without being compiled")
        summary = tiny_run(tmp_path, {"compute.device": device, "training.epochs": 1, **SHOWN, **settings})
    assert summary.epochs == 1
    assert losses(tmp_path)
    assert all(map(math.isfinite, losses(tmp_path)))
    assert (tmp_path / "samples" / "epoch_0001.png").is_file()
    checkpoint = find_checkpoint(tmp_path, "last")
    content = load_tensors(checkpoint)
    assert all(weight.dtype in (torch.float32, torch.int64) for weight in content["state_dict"].values())
    assert ("MixedPrecision" in content) == (precision == "fp16")  # the scaler of the gradients
    images = DiffusionSampler(load_denoiser(checkpoint)).sample(2, [0, 1], sampler=DDIMSampler(steps=2), seed=0)
    assert bool(images.isfinite().all())


def test_kernels_of_the_optimizer(device: str, tmp_path: Path) -> None:
    """Each of torch's implementations of the same step."""
    ways = ["foreach", "fused", *(["capturable"] if device == "cuda" else [])]
    for way in ways:
        settings = {"compute.device": device, "training.epochs": 1, f"training.optimizer.{way}": True}
        tiny_run(tmp_path / way, settings)
        (state,) = load_tensors(find_checkpoint(tmp_path / way, "last"))["optimizer_states"]
        assert state["param_groups"][0][way] is True
    for way in ways[1:]:
        assert losses(tmp_path / way) == pytest.approx(losses(tmp_path / ways[0]), rel=0.02)


def test_a_resumed_run_is_bitwise_equal_to_an_uninterrupted_one(device: str, tmp_path: Path) -> None:
    settings = {"compute.device": device, "compute.deterministic": True}
    tiny_run(tmp_path / "whole", {**settings, "training.epochs": 2})
    tiny_run(tmp_path / "parts", {**settings, "training.epochs": 1})
    tiny_run(tmp_path / "parts", {**settings, "training.epochs": 2, "training.resume": RESUME})
    whole, parts = (load_tensors(find_checkpoint(tmp_path / name, "last")) for name in ("whole", "parts"))
    assert whole["global_step"] == parts["global_step"]
    for name, weight in whole["state_dict"].items():
        assert torch.equal(weight, parts["state_dict"][name]), name
    torch.testing.assert_close(whole["optimizer_states"], parts["optimizer_states"], rtol=0, atol=0)


def test_ema_equals_its_closed_form(device: str) -> None:
    denoiser = tiny_denoiser().to(device)
    ema = EMA(denoiser, 0.9, warmup=False, further_decays=[0.5])
    name, weight = next(iter(denoiser.named_parameters()))
    initial = weight.detach().clone()
    values = [torch.full_like(initial, float(step)) for step in range(1, 6)]
    for value in values:
        weight.data.copy_(value)
        ema.update(denoiser)
    for decay, average in ((0.9, ema.average), (0.5, ema.further[0])):
        expected = decay ** len(values) * initial.double()
        for age, value in enumerate(reversed(values)):
            expected += (1 - decay) * decay**age * value.double()
        actual = dict(average.named_parameters())[name]
        assert actual.device.type == device
        torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=1e-5)


def test_ema_on_another_device_than_the_model(device: str) -> None:
    denoiser = tiny_denoiser().to(device)
    ema = EMA(denoiser, 0.5, device="cpu")
    before = {name: weight.clone() for name, weight in denoiser.state_dict().items()}
    for weight in denoiser.parameters():
        weight.data += 1
    ema.update()
    with ema.average_parameters():
        for name, weight in denoiser.state_dict().items():
            torch.testing.assert_close(weight, before[name] + 0.5)
    for name, weight in denoiser.state_dict().items():
        assert weight.device.type == device
        assert torch.equal(weight, before[name] + 1)
    sampler = DiffusionSampler(denoiser, device, ema)
    ema.update()  # now on the device of the model
    assert sampler.sample(1, [0], seed=0).device.type == device


def test_loaded_batches_are_pinned_and_the_same_when_copied_on_another_stream(device: str) -> None:
    module = ImageDataModule(TinySource(8, 1, 64), None, 16, pin_memory=True, labelled=True)
    target = torch.device(device)
    for batch in module.train_dataloader():
        assert batch.images.is_pinned() == (device == "cuda")
        if device == "cuda":
            stream = torch.cuda.Stream()
            with torch.cuda.stream(stream):
                moved = module.transfer_batch_to_device(batch, target, 0)
            torch.cuda.current_stream().wait_stream(stream)
        else:
            moved = module.transfer_batch_to_device(batch, target, 0)
        assert moved.images.device.type == device
        assert torch.equal(moved.images.cpu(), batch.images)
        prepared = module.prepare_batch(moved, training=True).images
        assert prepared.device.type == device
        assert prepared.abs().max() <= 1


def test_pinned_memory_and_workers_do_not_change_a_run(device: str, tmp_path: Path) -> None:
    settings = {"compute.device": device, "compute.deterministic": True, "training.epochs": 1}
    tiny_run(tmp_path / "plain", settings)
    tiny_run(tmp_path / "pinned", {**settings, "data.loading.pin_memory": True, "data.loading.num_workers": 1})
    plain, pinned = (load_tensors(find_checkpoint(tmp_path / name, "last")) for name in ("plain", "pinned"))
    assert all(torch.equal(weight, pinned["state_dict"][name]) for name, weight in plain["state_dict"].items())


def test_out_of_memory_is_one_error_with_a_remedy(device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that needs more memory than available, as with a batch that is too large."""

    def asks_for_too_much(self: DiffusionModule, *_: Any, **__: Any) -> Any:
        if device == "cpu":
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1000000000000 bytes.")
        return torch.empty(2**46, device=device)

    monkeypatch.setattr(DiffusionModule, "training_step", asks_for_too_much)
    with pytest.raises(MemoryError, match=r"too small for a training step: lower data\.loading\.batch_size"):
        tiny_run(tmp_path, {"compute.device": device})
    assert json.loads((tmp_path / "status.json").read_text())["state"] == "failed"


def test_one_process_of_a_group_computes_the_same_gradients(device: str, tmp_path: Path) -> None:
    """NCCL on a GPU, gloo on a CPU; more processes are not tested yet."""
    network = tiny_denoiser().network.to(device)
    images, times = torch.randn(4, 1, 8, 8, device=device), torch.rand(4, device=device)
    labels = torch.tensor([0, 1, 2, 3], device=device)

    def gradients(of: nn.Module) -> list[torch.Tensor]:
        network.zero_grad()
        of(images, times, labels).square().mean().backward()
        return [weight.grad.clone() for weight in network.parameters() if weight.grad is not None]

    alone = gradients(network)
    torch.distributed.init_process_group(
        "nccl" if device == "cuda" else "gloo", f"file://{tmp_path / 'meeting'}", world_size=1, rank=0
    )
    try:
        total = torch.ones(3, device=device)
        torch.distributed.all_reduce(total)
        assert total.tolist() == [1, 1, 1]
        together = gradients(nn.parallel.DistributedDataParallel(network))
        torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-5)  # a GPU adds up in another order each time
    finally:
        torch.distributed.destroy_process_group()
