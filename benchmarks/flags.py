"""Effect of each performance setting: a training step and sampling with and without it, with all other defaults.

    python -m benchmarks.flags [--json] [--device cpu] [--compile no]

The settings are `use_amp`, `use_tf32`, `cudnn_benchmark` and `compile_model` of `training.performance`, and the
channels-last memory format, which networks always use. The network is that of the goals (32×32×3, batch 16); in
``benchmarks.gpu`` it is ``unet_base`` at 64×64. On a CPU the settings of NVIDIA GPUs have no effect, so their rows
stay open. ``--compile yes`` also measures compiling, which takes minutes on a CPU.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks import equal_work
from benchmarks.harness import Row, Timings, command, not_measured, print_progress, time_alternately
from benchmarks.training_step import Step, step_of
from diffusion_lab import DiffusionSampler
from diffusion_lab.cpu import cpu_optimizations
from diffusion_lab.denoiser import Denoiser
from diffusion_lab.networks.compiled import compile_in_place, reset_compiler
from diffusion_lab.runtime.precision import resolve_precision
from diffusion_lab.samplers import DDIMSampler

GOAL = "11"
ROUNDS, WARM_UP, SAMPLING_STEPS = 5, 1, 5
TRAINING, SAMPLING = "a training step", f"{SAMPLING_STEPS} steps of DDIM"

Change = Callable[[Denoiser], None]
"""Function that turns a setting on or off for a denoiser."""


@dataclass(frozen=True)
class Work:
    """Work to measure: arguments of ``create_ddpm`` for the network, and the batch size."""

    architecture: dict[str, Any]
    batch: int

    def images(self, device: torch.device) -> Tensor:
        """Return a batch of noise in [-1, 1]."""
        size, channels = self.architecture["image_size"], self.architecture["in_channels"]
        return torch.randn(self.batch, channels, size, size, device=device).clamp(-1, 1)


GOALS = Work(equal_work.EQUAL_WORK, equal_work.BATCH)


@dataclass(frozen=True)
class Flag:
    """A setting of ``training.performance``, or the memory format.

    Args:
        name: Override as typed on the command line.
        off: Timings the setting off for a denoiser.
        on: Timings the setting on for a denoiser.
        backend: Context manager that sets flags of torch's backends, by whether the setting is on.
        only_cuda: Whether it has an effect only on CUDA devices.
        in_sampling: Whether it also applies to sampling from a checkpoint.
    """

    name: str
    off: Change = lambda denoiser: None
    on: Change = lambda denoiser: None
    backend: Callable[[bool], AbstractContextManager[None]] = lambda on: contextlib.nullcontext()
    only_cuda: bool = False
    in_sampling: bool = True


@contextlib.contextmanager
def tf32(on: bool) -> Iterator[None]:
    """Allow or forbid TF32 in matrix products and convolutions of NVIDIA GPUs, like ``train.py``."""
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    products.allow_tf32 = convolutions.allow_tf32 = on
    try:
        yield
    finally:
        products.allow_tf32, convolutions.allow_tf32 = before


@contextlib.contextmanager
def kernel_search(on: bool) -> Iterator[None]:
    """Set whether cuDNN tries its kernels and keeps the fastest."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = on
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def mixed_precision(denoiser: Denoiser) -> None:
    """Set the compute dtype of ``use_amp=true`` on the denoiser's device."""
    denoiser.compute_dtype = resolve_precision("auto", _device_of(denoiser), "training.performance.use_amp")


def contiguous(denoiser: Denoiser) -> None:
    """Use torch's default contiguous memory format instead of channels-last."""
    network: Any = denoiser.network
    map_patches = network.to(memory_format=torch.contiguous_format).map_patches
    network.map_patches = lambda patches, embedding: map_patches(patches.contiguous(), embedding)


def compiled(denoiser: Denoiser) -> None:
    """Compile the network like ``compile_model=true``."""
    compile_in_place(denoiser.network)


FLAGS = (
    Flag("training.performance.use_amp=true", on=mixed_precision),
    Flag("training.performance.use_tf32=true", backend=tf32, only_cuda=True),
    Flag("training.performance.cudnn_benchmark=true", backend=kernel_search, only_cuda=True),
    Flag("training.performance.compile_model=true", on=compiled, in_sampling=False),
    Flag("channels-last memory format", off=contiguous),
)
COMPILE = FLAGS[3]


def measure(device: str = "cpu", compile: str = "no") -> list[Row]:
    """Measure all flags; return open rows for those without an effect, or for all if the device is missing."""
    if device == "cuda" and not torch.cuda.is_available():
        return [not_measured(GOAL, flag.name, "no CUDA device here") for flag in FLAGS]
    rows = []
    for flag in FLAGS:
        if flag is COMPILE and device == "cpu" and compile != "yes":
            rows.append(not_measured(GOAL, flag.name, "compiling takes minutes on a CPU (--compile yes)"))
            continue
        print_progress(flag.name)
        rows += rows_of(flag, torch.device(device), GOALS)
    return rows


def rows_of(flag: Flag, device: torch.device, work: Work) -> list[Row]:
    """Measure one flag."""
    if flag.only_cuda and device.type != "cuda":
        return [not_measured(GOAL, flag.name, "for NVIDIA GPUs")]
    with_it = _denoiser(flag.on, device, work)
    if flag.name == FLAGS[0].name and with_it.compute_dtype == torch.float32:
        return [not_measured(GOAL, flag.name, "uses float32 here, as bfloat16 would only be emulated")]
    denoisers = {"off": _denoiser(flag.off, device, work), "on": with_it}
    ways = {TRAINING: _training, **({SAMPLING: _sampling} if flag.in_sampling else {})}
    reset_compiler()
    with cpu_optimizations(device), warnings.catch_warnings():
        # Otherwise figures of a network that could not be compiled would be reported as those of a compiled one.
        warnings.filterwarnings("error", message="the network runs without being compiled")
        return [
            _row(flag, what, _taken(flag, partial(way, work=work), denoisers, device), with_it, work.batch)
            for what, way in ways.items()
        ]


def _denoiser(change: Change, device: torch.device, work: Work) -> Denoiser:
    denoiser = equal_work.our_denoiser(**work.architecture, device=device)
    change(denoiser)
    return denoiser


def _training(denoiser: Denoiser, work: Work) -> Step:
    return step_of(denoiser, work.images(_device_of(denoiser)))


def _sampling(denoiser: Denoiser, work: Work) -> Step:
    sampler = DiffusionSampler(denoiser.eval(), device=_device_of(denoiser))
    return partial(sampler.sample, work.batch, sampler=DDIMSampler(steps=SAMPLING_STEPS), seed=0, batch_size=work.batch)


def _taken(
    flag: Flag, way: Callable[[Denoiser], Step], denoisers: dict[str, Denoiser], device: torch.device
) -> Timings:
    def within(step: Step, on: bool) -> Step:
        def timed() -> None:
            with flag.backend(on):
                step()
                if device.type == "cuda":
                    torch.cuda.synchronize(device)

        return timed

    steps = {name: within(way(denoiser), name == "on") for name, denoiser in denoisers.items()}
    return time_alternately(steps, ROUNDS, WARM_UP)


def _row(flag: Flag, what: str, taken: Timings, denoiser: Denoiser, batch: int) -> Row:
    rate, before = (batch / taken.median(name) for name in ("on", "off"))
    kind = str(denoiser.compute_dtype).removeprefix("torch.")
    where = _device_of(denoiser).type
    note = f"peer: without it; {kind} on {where}"
    return Row(GOAL, f"{flag.name}: {what}", rate, before, "images/s", taken.ratio("off", "on"), note=note)


def _device_of(denoiser: Denoiser) -> torch.device:
    return next(denoiser.parameters()).device


if __name__ == "__main__":
    command("flags", measure, device="cpu", compile="no")
