"""`unet_base` at 64×64 on a GPU: training step, data and sampling, against diffusers and the device's own limit.

    python -m benchmarks.gpu [--json] [--device cuda]

Ours trains as `train.py compute.device=cuda training.performance.compile_model=true` does: bfloat16, compiled, with an
optimizer of one kernel; once more with CUDA graphs, to see whether they help. The peer is the loop of diffusers'
`train_unconditional.py` in bfloat16. Without a CUDA device all rows are left open; ``--device cpu`` runs the same code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._inductor.compile_fx import compile_fx

from benchmarks import equal_work
from benchmarks.harness import Row, Turns, command, in_turns, matrix_flops, matrix_product, not_measured
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
"""Those of `conf/model/unet_base.yaml`, without its dropout, which the peer has none of."""

BATCH, STEPS, SAMPLING_STEPS, LIMIT_SIZE, ROUNDS = 64, 10, 20, 8192, 5
BACKENDS: dict[str, Any] = {
    "compiled": "inductor",
    "compiled, CUDA graphs": partial(compile_fx, config_patches={"triton.cudagraphs": True}),
}
OPEN = ("training step, bf16", "CUDA graphs", "data", "DDIM, bf16")


def image_shape() -> tuple[int, int, int]:
    """Of one image."""
    return UNET_BASE["in_channels"], UNET_BASE["image_size"], UNET_BASE["image_size"]


def our_denoiser(device: torch.device, backend: Any = None) -> Denoiser:
    """Ours, as a run prepares it."""
    denoiser = equal_work.our_denoiser(**UNET_BASE, device=device)
    denoiser.compute_dtype = torch.bfloat16
    if backend is not None:
        compile_in_place(denoiser.network, backend)
    return denoiser


def their_step(images: Tensor) -> Step:
    """The loop of diffusers' example, without accelerate."""
    network = equal_work.diffusers_unet(UNET_BASE).to(images.device)
    return peer_step(network, lambda noisy, times: network(noisy, times).sample, noising(images), bf16=True)


def repeated(step: Step, device: torch.device, count: int) -> Callable[[], None]:
    """So many steps, waited for at the end alone."""

    def steps() -> None:
        for _ in range(count):
            step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return steps


def training(device: torch.device) -> list[Row]:
    """The step at equal work, and whether CUDA graphs help."""
    images = torch.randn(BATCH, *image_shape(), device=device).clamp(-1, 1)
    ours, theirs = equal_work.our_denoiser(**UNET_BASE).network, equal_work.diffusers_unet(UNET_BASE)
    shape = image_shape()
    work = equal_work.training_flops(lambda noisy, times: ours(noisy, times / 1000), shape)
    equal_work.refuse_unequal(work, equal_work.training_flops(lambda noisy, times: theirs(noisy, times).sample, shape))
    steps = {name: step_of(our_denoiser(device, backend), images) for name, backend in BACKENDS.items()}
    ways = {name: repeated(step, device, STEPS) for name, step in {**steps, "peer": their_step(images)}.items()}
    limit = matrix_product(torch.bfloat16, LIMIT_SIZE, device)
    taken = in_turns({**ways, "limit": repeated(limit, device, 1)}, ROUNDS)
    best = min(BACKENDS, key=taken.median)
    rate, other = (BATCH * STEPS / taken.median(way) for way in (best, "peer"))
    share = rate * work / (matrix_flops(LIMIT_SIZE) / taken.median("limit"))
    what = f"training step, bf16, unet_base at {shape[1]}×{shape[2]}"
    return [
        Row("9", what, rate, other, "images/s", taken.ratio("peer", best), 1.5, share=share, note=f"{best}; diffusers"),
        _of_graphs(taken),
    ]


def _of_graphs(taken: Turns) -> Row:
    plain, graphs = BACKENDS
    rate, without = (BATCH * STEPS / taken.median(way) for way in (graphs, plain))
    return Row("9", "training step, CUDA graphs", rate, without, "images/s", taken.ratio(plain, graphs), note=plain)


def data(device: torch.device) -> list[Row]:
    """Steps on batches as they are loaded and augmented, against as many on one batch that is there."""
    count = BATCH * STEPS
    pixels = np.random.default_rng(0).integers(0, 256, (count, *image_shape()), dtype=np.uint8)
    module = ImageDataModule(
        ArraySource(pixels, np.zeros(count, int), ("all",)),
        None,
        BATCH,
        augmentation=Augmentation(horizontal_flip=True),
    )
    denoiser = our_denoiser(device, BACKENDS["compiled"])
    held = torch.randn(BATCH, *image_shape(), device=device).clamp(-1, 1)
    train = step_of(denoiser, held)

    def loaded() -> Iterator[Tensor]:
        for batch in module.train_dataloader():
            moved = module.transfer_batch_to_device(batch, device, 0)
            yield module.prepared(moved, vary=True).images

    def with_data() -> None:
        for images in loaded():
            held.copy_(images)
            train()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    taken = in_turns({"with": with_data, "without": repeated(train, device, STEPS)}, ROUNDS)
    rate, without = (count / taken.median(way) for way in ("with", "without"))
    ratio = taken.ratio("with", "without")
    return [Row("9", "steps that load their data", rate, without, "images/s", ratio, 1.02, False, note="on one batch")]


def sampling(device: torch.device) -> list[Row]:
    """DDIM, each in bfloat16 as its users would run it."""
    diffusers = equal_work.peer("diffusers")
    network = equal_work.diffusers_unet(UNET_BASE).eval().to(device, torch.bfloat16)
    pipeline = diffusers.DDIMPipeline(network, diffusers.DDIMScheduler())
    pipeline.set_progress_bar_config(disable=True)
    front = DiffusionSampler(our_denoiser(device, BACKENDS["compiled"]).eval())
    sampler = DDIMSampler(steps=SAMPLING_STEPS)
    ways: dict[str, Step] = {
        "ours": lambda: front.sample(BATCH, sampler=sampler, seed=0),
        "peer": lambda: pipeline(batch_size=BATCH, num_inference_steps=SAMPLING_STEPS, output_type="pt"),
    }
    taken = in_turns({name: repeated(way, device, 1) for name, way in ways.items()}, ROUNDS)
    rate, other = (BATCH / taken.median(way) for way in ways)
    what = f"{SAMPLING_STEPS} steps of DDIM, bf16, unet_base at {UNET_BASE['image_size']}×{UNET_BASE['image_size']}"
    return [Row("9", what, rate, other, "images/s", taken.ratio("peer", "ours"), 1.5, note="diffusers DDIMPipeline")]


def measure(device: str = "cuda") -> list[Row]:
    """All rows; open ones where there is no such device."""
    missing = equal_work.missing_peers()
    if device == "cuda" and not torch.cuda.is_available():
        return [not_measured("9", f"GPU: {what}", "no CUDA device here") for what in OPEN]
    if missing:
        return [not_measured("9", f"GPU: {what}", f"needs {missing}, of the extra peers") for what in OPEN]
    chosen = torch.device(device)
    return [*training(chosen), *data(chosen), *sampling(chosen)]


if __name__ == "__main__":
    command("gpu", measure, device="cuda")
