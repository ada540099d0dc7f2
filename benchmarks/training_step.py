"""A training step at equal work, against diffusers and denoising_diffusion_pytorch, and against the machine's limit.

    python -m benchmarks.training_step [--json] [--compiled yes]

Batch 16 of 32×32×3; each network with AdamW and the loss of its users, without data loading, in a separate process.
Ours makes the steps of `train.py`: our loss and optimizer settings, with freed memory kept between steps. The extra
``peers`` installs the peers. On a machine that only emulates bfloat16 the bfloat16 rows are open, and the share of the
float32 limit is the goal. Operations are counted as for direct convolutions, however they are computed, so a share can
exceed 1. ``--compiled yes`` adds our step compiled; compiling takes minutes on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks import equal_work
from benchmarks.harness import (
    LIMIT_SIZE,
    Row,
    Timings,
    bf16_is_accelerated,
    command,
    matrix_flops,
    matrix_product,
    not_measured,
    print_progress,
    time_in_processes,
)
from diffusion_lab.config import get_default_config
from diffusion_lab.config.optimizer_section import OptimizerSettings
from diffusion_lab.config.validate import parse_section
from diffusion_lab.cpu import cpu_optimizations
from diffusion_lab.denoiser import Denoiser
from diffusion_lab.diffusion.loss import DenoisingLoss
from diffusion_lab.networks.compiled import compile_in_place
from diffusion_lab.training.optimizers import create_optimizer

ROUNDS = 7
NO_BF16 = "bfloat16 is emulated here"
LEARNING_RATE = 1e-4
COMPILED = "ours, compiled"

Step = Callable[[], object]


def as_train_py(make: Callable[[], Step]) -> Step:
    """Create a step in a process that manages its memory like ``train.py``."""
    cpu_optimizations(torch.device("cpu")).__enter__()
    return make()


def our_step(bf16: bool, compiled: bool = False) -> Step:
    """Return the step of the training loop: denoising loss, backward, clipping, optimizer."""
    denoiser = equal_work.our_denoiser()
    denoiser.compute_dtype = torch.bfloat16 if bf16 else torch.float32
    if compiled:
        compile_in_place(denoiser.network)
    images = torch.randn(equal_work.BATCH, *equal_work.IMAGE_SHAPE).clamp(-1, 1)
    return step_of(denoiser, images)


def step_of(denoiser: Denoiser, images: Tensor) -> Step:
    """Return the training step for a batch."""
    loss = DenoisingLoss()
    settings = parse_section(OptimizerSettings, get_default_config()["training"]["optimizer"], "training.optimizer")
    parameters = list(denoiser.parameters())
    optimizer = create_optimizer(settings, parameters)

    def step() -> None:
        loss(denoiser, images, None, seed=0).backward()
        nn.utils.clip_grad_norm_(parameters, settings.gradient_clip_norm or float("inf"), foreach=True)
        optimizer.step()
        optimizer.zero_grad()

    return step


def noising(images: Tensor | None = None) -> Callable[[], tuple[Tensor, Tensor, Tensor]]:
    """Return a function that draws noisy images, their timesteps and the noise, as in diffusers' examples."""
    scheduler = equal_work.peer("diffusers").DDPMScheduler(num_train_timesteps=1000)
    if images is None:
        images = torch.randn(equal_work.BATCH, *equal_work.IMAGE_SHAPE).clamp(-1, 1)

    def draw() -> tuple[Tensor, Tensor, Tensor]:
        noise = torch.randn_like(images)
        times = torch.randint(0, 1000, (len(images),), device=images.device)
        return scheduler.add_noise(images, noise, times), times, noise

    return draw


def diffusers_step(bf16: bool) -> Step:
    """Return the step of diffusers' `train_unconditional.py`, without accelerate; channels-last in bfloat16."""
    network = equal_work.diffusers_unet()
    return peer_step(network, lambda images, times: network(images, times).sample, noising(), bf16)


def lucidrains_step(bf16: bool) -> Step:
    """Return a step with the loss of denoising_diffusion_pytorch's `GaussianDiffusion` and diffusers' noising."""
    network = equal_work.lucidrains_unet()
    return peer_step(network, network, noising(), bf16)


def peer_step(
    network: nn.Module,
    predict: Callable[[Tensor, Tensor], Tensor],
    draw: Callable[[], tuple[Tensor, Tensor, Tensor]],
    bf16: bool,
) -> Step:
    """Return the step of both peers: squared error of the noise, backward, clipping to a norm of 1, AdamW."""
    if bf16:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    parameters = list(network.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE)

    def step() -> None:
        noisy, times, noise = draw()
        if bf16:
            noisy = noisy.contiguous(memory_format=torch.channels_last)
        with torch.autocast(noisy.device.type, torch.bfloat16, enabled=bf16):
            error = functional.mse_loss(predict(noisy, times).float(), noise)
        error.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def flops() -> dict[str, int]:
    """Return the operations of one image in a step, by network."""
    ours, theirs = equal_work.our_denoiser().network, equal_work.diffusers_unet()
    other = equal_work.lucidrains_unet()
    counts = {
        "ours": equal_work.training_flops(lambda images, times: ours(images, times / 1000)),
        "diffusers": equal_work.training_flops(lambda images, times: theirs(images, times).sample),
        "lucidrains": equal_work.training_flops(other),
    }
    equal_work.check_equal_work(counts["ours"], counts["diffusers"])
    return counts


def rows(taken: Timings, work: dict[str, int], bf16: bool) -> list[Row]:
    """Return the rows; without bfloat16, the same comparisons in float32 have no bound."""
    kind, dtype = ("bf16", "bfloat16") if bf16 else ("fp32", "float32")
    limit = matrix_flops() / taken.median(f"limit {kind}")
    bound, note = 0.60 if bf16 else 0.85, f"{dtype} matrix product of {LIMIT_SIZE}³"

    def against(peer: str, network: str, bound: float | None, what: str, ours: str = f"ours {kind}") -> Row:
        per_flop = taken.ratio(peer, ours) * work["ours"] / work[network]
        images = equal_work.BATCH / taken.median(ours), equal_work.BATCH / taken.median(peer)
        share = _rate(taken, ours, work["ours"]) / limit
        return Row("1", what, *images, "images/s", per_flop, bound, share=share, note=peer)

    def arithmetic(what: str, ours: str) -> Row:
        reached = _rate(taken, ours, work["ours"])
        share = reached / limit
        return Row("1", what, reached / 1e9, limit / 1e9, "GFLOP/s", share, bound, note=note)

    table = [against("diffusers fp32", "diffusers", 2.0 if bf16 else None, f"training step, {kind}, at equal work")]
    if bf16:
        table.append(against("diffusers bf16", "diffusers", 1.4, "training step, both bf16, at equal work"))
        table.append(against("lucidrains bf16", "lucidrains", 1.2, "training step, both bf16, per FLOP"))
    else:
        table.append(not_measured("1", "training step, both bf16, at equal work", NO_BF16))
        table.append(against("lucidrains fp32", "lucidrains", None, "training step, both fp32, per FLOP"))
    table.append(arithmetic("training step, arithmetic", f"ours {kind}"))
    if COMPILED in taken.seconds:
        table.append(against("diffusers fp32", "diffusers", None, f"training step, {kind}, compiled", COMPILED))
        table.append(arithmetic("training step, arithmetic, compiled", COMPILED))
    return table


def _rate(taken: Timings, way: str, image_flops: int) -> float:
    return equal_work.BATCH * image_flops / taken.median(way)


def measure(compiled: str = "no") -> list[Row]:
    """Measure all steps alternately with the machine's limit."""
    missing = equal_work.missing_peers()
    if missing:
        return [not_measured("1", "training step at equal work", f"needs {missing}, of the extra peers")]
    work = flops()
    counts = ", ".join(f"{name} {count / 1e9:.1f} GFLOP per image" for name, count in work.items())
    print_progress(f"training step: {counts}")
    bf16 = bf16_is_accelerated()
    return rows(time_in_processes(dict(ways(bf16, compiled == "yes")), ROUNDS), work, bf16)


def ways(bf16: bool, compiled: bool) -> Iterable[tuple[str, Callable[[], Step]]]:
    """Yield the variants to measure."""
    kind = "bf16" if bf16 else "fp32"
    yield "diffusers fp32", partial(diffusers_step, bf16=False)
    yield f"ours {kind}", partial(as_train_py, partial(our_step, bf16))
    if compiled:
        yield COMPILED, partial(as_train_py, partial(our_step, bf16, compiled=True))
    if bf16:
        yield "diffusers bf16", partial(diffusers_step, bf16=True)
    yield f"lucidrains {kind}", partial(lucidrains_step, bf16)
    yield f"limit {kind}", partial(matrix_product, torch.bfloat16 if bf16 else torch.float32)


def main() -> None:
    """Measure and print."""
    command("training_step", measure, compiled="no")


if __name__ == "__main__":
    main()
