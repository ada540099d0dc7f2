"""Sampling on a GPU: one seed at any batch size, in every precision, and with too little memory."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from diffusion_lab.config import ConfigWarning
from diffusion_lab.denoiser import Denoiser
from diffusion_lab.samplers import DDIMSampler, DDPMSampler, Sampler
from diffusion_lab.sampling import DiffusionSampler
from diffusion_lab.sampling.finite_samples import NonFiniteSamplesError
from diffusion_lab.sampling.image_noise import ImageNoise
from tests.training.tiny import tiny_denoiser

LABELS = [index % 3 for index in range(70)]


@contextlib.contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Set whether convolutions and matrix products of a GPU round their inputs to 10 bits; restore the flag afterwards.

    These images have steep spots, where that alone comes to 0.2 (emulated on a CPU), and whether a kernel does it
    depends on the batch.
    """
    backends = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [backend.allow_tf32 for backend in backends]
    try:
        for backend in backends:
            backend.allow_tf32 = allowed
        yield
    finally:
        for backend, value in zip(backends, before, strict=True):
            backend.allow_tf32 = value


@pytest.fixture(autouse=True)
def full_float32() -> Iterator[None]:
    """Compute in full float32 precision, whatever an earlier run in this process has set."""
    with tf32(False):
        yield


def sampled(denoiser: Denoiser, device: str, count: int, batch_size: int, sampler: Sampler) -> torch.Tensor:
    front = DiffusionSampler(denoiser, device)
    return front.sample(count, LABELS[:count], 2.0, sampler=sampler, seed=3, batch_size=batch_size).cpu()


@pytest.mark.parametrize("sampler", [DDIMSampler(steps=4), DDPMSampler(steps=4)], ids=["ddim", "ddpm"])
def test_an_image_of_a_seed_is_the_same_in_any_batch(
    device: str, sampler: Sampler, record_property: Callable[[str, object], None]
) -> None:
    """Up to rounding, which differs between the kernels for other batch sizes; the difference is recorded."""
    whole = sampled(tiny_denoiser(), device, 70, 64, sampler)
    for batch_size in (7, 1):
        parts = sampled(tiny_denoiser(), device, 14, batch_size, sampler)
        record_property(f"largest difference, batch {batch_size}", float((parts - whole[:14]).abs().max()))
        torch.testing.assert_close(parts, whole[:14], rtol=0, atol=0.02)  # of a range of 2: two and a half in 255


def test_noise_equals_that_of_a_cpu(device: str) -> None:
    noise = ImageNoise(5, range(3), (1, 8, 8), torch.device(device))
    expected = ImageNoise(5, range(3), (1, 8, 8), torch.device("cpu"))
    for _ in range(2):
        assert torch.equal(noise().cpu(), expected())


def test_images_equal_those_of_a_cpu(device: str, record_property: Callable[[str, object], None]) -> None:
    images, expected = (sampled(tiny_denoiser(), name, 8, 8, DDIMSampler(steps=4)) for name in (device, "cpu"))
    record_property("largest difference", float((images - expected).abs().max()))
    torch.testing.assert_close(images, expected, rtol=0, atol=0.02)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_gives_nearly_the_same_images(
    device: str, dtype: torch.dtype, record_property: Callable[[str, object], None]
) -> None:
    exact, half = tiny_denoiser(), tiny_denoiser()
    half.compute_dtype = torch.bfloat16 if device == "cpu" else dtype
    whole, rounded = (sampled(denoiser, device, 8, 8, DDIMSampler(steps=4)) for denoiser in (exact, half))
    assert rounded.dtype == torch.float32
    record_property("mean difference", float((rounded - whole).abs().mean()))
    assert (rounded - whole).abs().mean() < 0.1


def test_tf32_gives_nearly_the_same_images(device: str, record_property: Callable[[str, object], None]) -> None:
    """The default of a GPU; on a CPU it has no effect."""
    whole = sampled(tiny_denoiser(), device, 8, 8, DDIMSampler(steps=4))
    with tf32(True):
        rounded = sampled(tiny_denoiser(), device, 8, 8, DDIMSampler(steps=4))
    record_property("mean difference", float((rounded - whole).abs().mean()))
    assert (rounded - whole).abs().mean() < 0.1


def test_the_error_about_an_overflow_names_a_remedy(device: str) -> None:
    denoiser = tiny_denoiser()
    denoiser.compute_dtype = torch.float16 if device == "cuda" else torch.bfloat16
    with torch.no_grad():
        for weight in denoiser.parameters():
            weight.mul_(1e6 if device == "cuda" else 1e20)
    with pytest.raises(NonFiniteSamplesError, match=r"16 overflowed; set generation\.sampling\.precision=32"):
        sampled(denoiser, device, 2, 2, DDIMSampler(steps=3))


@contextlib.contextmanager
def room_for(most: int, denoiser: Denoiser, device: str) -> Iterator[None]:
    """Raise the allocator's out-of-memory error in a forward pass with more than ``most`` images."""

    def refuse(module: Any, inputs: tuple[Any, ...]) -> None:
        if len(inputs[0]) > most:
            if device == "cuda":
                torch.empty(2**46, device=device)
            raise torch.OutOfMemoryError("out of memory")

    hook = denoiser.network.register_forward_pre_hook(refuse)
    try:
        yield
    finally:
        hook.remove()


def test_a_batch_that_does_not_fit_into_memory_is_halved(device: str) -> None:
    whole = sampled(tiny_denoiser(), device, 20, 20, DDIMSampler(steps=3))
    denoiser = tiny_denoiser()
    with room_for(2 * 6, denoiser, device), pytest.warns(ConfigWarning, match="5 images at a time from here on"):
        halved = sampled(denoiser, device, 20, 20, DDIMSampler(steps=3))  # guided ones go through the network twice
    torch.testing.assert_close(halved, whole, rtol=0, atol=0.02)
    with room_for(0, denoiser, device), pytest.raises(MemoryError, match="too small for one image at a time"):
        sampled(denoiser, device, 2, 2, DDIMSampler(steps=3))
