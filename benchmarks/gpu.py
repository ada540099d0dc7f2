"""`unet_base` at 64×64 on a GPU: training step, data and sampling, against diffusers and the limit of the device.

    python -m benchmarks.gpu [--json] [--device cuda] [--part all]

Ours trains like `train.py compute.device=cuda training.performance.compile_model=true`: bfloat16, compiled, with a
fused optimizer; and again with CUDA graphs, to see whether they help. The peer is the loop of diffusers'
`train_unconditional.py` in bfloat16. Without a CUDA device all rows are open; ``--device cpu`` runs the same code.
``--part`` selects one of ``PARTS``, so that the others are measured even if one fails or takes too long.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._inductor.compile_fx import compile_fx

from benchmarks import equal_work, flags
from benchmarks.harness import Row, command, matrix_flops, matrix_product, not_measured, time_alternately
from benchmarks.training_step import Step, noising, peer_step, step_of
from diffusion_lab import DiffusionSampler
from diffusion_lab.data.augmentation import Augmentation
from diffusion_lab.data.datamodule import ImageDataModule
from diffusion_lab.data.source import ArraySource
from diffusion_lab.denoiser import Denoiser
from diffusion_lab.networks.compiled import compile_in_place
from diffusion_lab.samplers import DDIMSampler

UNET_BASE: dict[str, Any] = {
    "image_size": 64,
    "in_channels": 3,
    "model_channels": 128,
    "channel_multipliers": [1, 2, 2, 2],
    "use_attention": [False, True, False, False],
    "head_channels": 64,
}
"""Options of `conf/model/unet_base.yaml`, without its dropout, which the peer does not have."""

BATCH, STEPS, SAMPLING_STEPS, LIMIT_SIZE, ROUNDS = 64, 10, 20, 8192, 5
COMPILED, GRAPHS = "compiled", "compiled, CUDA graphs"
BACKENDS: dict[str, Any] = {
    COMPILED: "inductor",
    GRAPHS: partial(compile_fx, config_patches={"triton.cudagraphs": True}),
}


def image_shape() -> tuple[int, int, int]:
    """Return the shape of one image."""
    return UNET_BASE["in_channels"], UNET_BASE["image_size"], UNET_BASE["image_size"]


def our_denoiser(device: torch.device, backend: Any = None) -> Denoiser:
    """Create our denoiser, prepared like in a run."""
    denoiser = equal_work.our_denoiser(**UNET_BASE, device=device)
    denoiser.compute_dtype = torch.bfloat16
    if backend is not None:
        compile_in_place(denoiser.network, backend)
    return denoiser


def their_step(images: Tensor) -> Step:
    """Return a step of diffusers' example, without accelerate."""
    network = equal_work.diffusers_unet(UNET_BASE).to(images.device)
    return peer_step(network, lambda noisy, times: network(noisy, times).sample, noising(images), bf16=True)


def repeated(step: Step, device: torch.device, count: int) -> Callable[[], None]:
    """Repeat a step ``count`` times, synchronizing only at the end."""

    def steps() -> None:
        for _ in range(count):
            step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return steps


def training(device: torch.device) -> list[Row]:
    """Measure the step at equal work, with default settings, and as a fraction of the device's limit."""
    images = torch.randn(BATCH, *image_shape(), device=device).clamp(-1, 1)
    ours, theirs = equal_work.our_denoiser(**UNET_BASE).network, equal_work.diffusers_unet(UNET_BASE)
    shape = image_shape()
    work = equal_work.training_flops(lambda noisy, times: ours(noisy, times / 1000), shape)
    equal_work.check_equal_work(
        work, equal_work.training_flops(lambda noisy, times: theirs(noisy, times).sample, shape)
    )
    steps = {"ours": step_of(our_denoiser(device, BACKENDS[COMPILED]), images), "peer": their_step(images)}
    limit = matrix_product(torch.bfloat16, LIMIT_SIZE, device)
    ways = {name: repeated(step, device, STEPS) for name, step in steps.items()}
    taken = time_alternately({**ways, "limit": repeated(limit, device, 1)}, ROUNDS)
    rate, other = (BATCH * STEPS / taken.median(way) for way in ("ours", "peer"))
    share = rate * work / (matrix_flops(LIMIT_SIZE) / taken.median("limit"))
    what = f"training step, bf16, unet_base at {shape[1]}×{shape[2]}"
    ratio = taken.ratio("peer", "ours")
    return [Row("9", what, rate, other, "images/s", ratio, 1.5, share=share, note=f"{COMPILED}; diffusers")]


def graphs(device: torch.device) -> list[Row]:
    """Measure the effect of CUDA graphs on the step."""
    images = torch.randn(BATCH, *image_shape(), device=device).clamp(-1, 1)
    steps = {name: step_of(our_denoiser(device, backend), images) for name, backend in BACKENDS.items()}
    taken = time_alternately({name: repeated(step, device, STEPS) for name, step in steps.items()}, ROUNDS)
    rate, without = (BATCH * STEPS / taken.median(way) for way in (GRAPHS, COMPILED))
    ratio = taken.ratio(COMPILED, GRAPHS)
    return [Row("9", "training step, CUDA graphs", rate, without, "images/s", ratio, note=COMPILED)]


def data(device: torch.device) -> list[Row]:
    """Measure steps on batches that are loaded and augmented, against as many on one prepared batch."""
    count = BATCH * STEPS
    pixels = np.random.default_rng(0).integers(0, 256, (count, *image_shape()), dtype=np.uint8)
    module = ImageDataModule(
        ArraySource(pixels, np.zeros(count, int), ("all",)),
        None,
        BATCH,
        augmentation=Augmentation(horizontal_flip=True),
    )
    denoiser = our_denoiser(device, BACKENDS[COMPILED])
    held = torch.randn(BATCH, *image_shape(), device=device).clamp(-1, 1)
    train = step_of(denoiser, held)

    def loaded() -> Iterator[Tensor]:
        for batch in module.train_dataloader():
            moved = module.transfer_batch_to_device(batch, device, 0)
            yield module.prepare_batch(moved, training=True).images

    def with_data() -> None:
        for images in loaded():
            held.copy_(images)
            train()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    taken = time_alternately({"with": with_data, "without": repeated(train, device, STEPS)}, ROUNDS)
    rate, without = (count / taken.median(way) for way in ("with", "without"))
    ratio = taken.ratio("with", "without")
    return [Row("9", "steps that load their data", rate, without, "images/s", ratio, 1.02, False, note="on one batch")]


def sampling(device: torch.device) -> list[Row]:
    """Measure DDIM, each program in bfloat16 as its users would run it."""
    diffusers = equal_work.peer("diffusers")
    network = equal_work.diffusers_unet(UNET_BASE).eval().to(device, torch.bfloat16)
    pipeline = diffusers.DDIMPipeline(network, diffusers.DDIMScheduler())
    pipeline.set_progress_bar_config(disable=True)
    front = DiffusionSampler(our_denoiser(device, BACKENDS[COMPILED]).eval(), device)
    sampler = DDIMSampler(steps=SAMPLING_STEPS)
    ways: dict[str, Step] = {
        "ours": lambda: front.sample(BATCH, sampler=sampler, seed=0),
        "peer": lambda: pipeline(batch_size=BATCH, num_inference_steps=SAMPLING_STEPS, output_type="pt"),
    }
    taken = time_alternately({name: repeated(way, device, 1) for name, way in ways.items()}, ROUNDS)
    rate, other = (BATCH / taken.median(way) for way in ways)
    what = f"{SAMPLING_STEPS} steps of DDIM, bf16, unet_base at {UNET_BASE['image_size']}×{UNET_BASE['image_size']}"
    return [Row("9", what, rate, other, "images/s", taken.ratio("peer", "ours"), 1.5, note="diffusers DDIMPipeline")]


def settings(device: torch.device) -> list[Row]:
    """Measure the effect of each performance setting."""
    return [row for flag in flags.FLAGS for row in flags.rows_of(flag, device, flags.Work(UNET_BASE, BATCH))]


PARTS: dict[str, Callable[[torch.device], list[Row]]] = {
    "training step, bf16": training,
    "CUDA graphs": graphs,
    "data": data,
    "DDIM, bf16": sampling,
    "performance settings": settings,
}


def measure(device: str = "cuda", part: str = "all") -> list[Row]:
    """Return all rows, or those of one of ``PARTS``; open ones if the device is missing."""
    if part not in ("all", *PARTS):
        raise SystemExit(f"--part must be all or one of {', '.join(PARTS)}, got {part}")
    chosen = list(PARTS) if part == "all" else [part]
    why = None
    if device == "cuda" and not torch.cuda.is_available():
        why = "no CUDA device here"
    elif find_spec("diffusers") is None:
        why = "needs diffusers, of the extra peers"
    if why:
        return [not_measured("9", f"GPU: {name}", why) for name in chosen]
    with warnings.catch_warnings():
        # Figures of a network that runs without being compiled would pass for those of a compiled one.
        warnings.filterwarnings("error", message="the network runs without being compiled")
        return [row for name in chosen for row in PARTS[name](torch.device(device))]


if __name__ == "__main__":
    command("gpu", measure, device="cuda", part="all")
