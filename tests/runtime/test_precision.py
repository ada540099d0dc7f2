"""Compute precision: its resolution per device, and that it only affects rounding."""

from __future__ import annotations

from types import MappingProxyType

import pytest
import torch

from diffusion_lab.create import create_ddpm
from diffusion_lab.runtime import precision
from diffusion_lab.runtime.precision import resolve_precision
from diffusion_lab.samplers import DDIMSampler
from diffusion_lab.sampling import DiffusionSampler

CPU, CUDA, MPS = (torch.device(name) for name in ("cpu", "cuda", "mps"))


@pytest.fixture
def hardware(monkeypatch):
    """Sets what the machine has."""

    def has(cpu: bool = False, cuda: bool = False) -> None:
        monkeypatch.setattr(
            torch.cpu, "get_capabilities", lambda: MappingProxyType({"avx512_bf16": cpu}), raising=False
        )
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: cuda)

    return has


@pytest.mark.parametrize(
    ("device", "has", "expected"),
    [
        (CPU, {"cpu": True}, torch.bfloat16),
        (CPU, {"cuda": True}, torch.float32),  # emulated on this CPU: slower than float32
        (CUDA, {"cuda": True}, torch.bfloat16),
        (CUDA, {"cpu": True}, torch.float16),
        (MPS, {"cpu": True, "cuda": True}, torch.float32),
    ],
)
def test_auto_is_the_fast_precision_of_the_device(hardware, device, has, expected):
    hardware(**has)
    assert resolve_precision("auto", device, "key") == expected


def test_older_torch_is_supported(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    for supported in (True, False):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda answer=supported: answer)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
        assert precision._cpu_has_bfloat16() == supported


def test_explicit_precision_is_used_and_float16_needs_a_gpu():
    assert [resolve_precision(wanted, CPU, "key") for wanted in (32, "bf16")] == [torch.float32, torch.bfloat16]
    assert resolve_precision("fp16", CUDA, "key") == torch.float16
    with pytest.raises(ValueError, match=r"training\.x must be auto, 32 or bf16 on a CPU, got fp16"):
        resolve_precision("fp16", CPU, "training.x")


@pytest.fixture(params=["unet", "dit"])
def denoiser(request):
    stages = {"dit": {"channel_multipliers": [2], "use_attention": [True]}}.get(
        request.param, {"channel_multipliers": [1, 2], "use_attention": [False, True]}
    )
    torch.manual_seed(0)
    model = create_ddpm(image_size=8, in_channels=1, model_channels=8, architecture_type=request.param, **stages)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def test_images_of_a_seed_are_the_same_in_each_precision_and_close_between_them(denoiser):
    images = {}
    for dtype in (torch.float32, torch.bfloat16):
        denoiser.compute_dtype = dtype
        once, again = (
            DiffusionSampler(denoiser).sample(4, seed=3, sampler=DDIMSampler(steps=3), batch_size=2) for _ in range(2)
        )
        assert torch.equal(once, again)
        assert once.dtype == torch.float32
        images[dtype] = once
    difference = (images[torch.float32] - images[torch.bfloat16]).abs()
    assert 0 < difference.mean() < 0.02


def test_output_and_weights_are_float32(denoiser):
    denoiser.compute_dtype = torch.bfloat16
    asked = []
    denoiser.network.enter.register_forward_hook(lambda module, given, output: asked.append(output.dtype))
    noisy = torch.randn(2, 1, 8, 8)
    assert denoiser(noisy, denoiser.schedule.level(0.5)).dtype == torch.float32
    assert asked == [torch.bfloat16]
    assert {weight.dtype for weight in denoiser.parameters()} == {torch.float32}
