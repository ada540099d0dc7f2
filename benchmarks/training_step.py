"""A training step at equal work, against diffusers and denoising_diffusion_pytorch, and against the machine's limit.

    python -m benchmarks.training_step [--json] [--compiled yes]

Batch 16 of 32×32×3; each network with AdamW and the loss that its users train it with, without data loading, in a
process of its own. Ours takes the steps of `train.py`: the project's own loss and optimizer settings, and memory that
is kept from step to step. Peers come with the extra ``peers``. On a machine that only emulates bfloat16 the bfloat16
rows are left open, and the share of the float32 limit is the goal. Arithmetic is that of plain convolutions, whichever
way they are computed, so a share can be more than all. ``--compiled yes`` adds our step compiled; compiling takes
minutes on a CPU.
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
    Turns,
    bf16_is_accelerated,
    command,
    in_turns_apart,
    matrix_flops,
    matrix_product,
    not_measured,
    say,
)
from diffusion_lab.config import get_default_config
from diffusion_lab.config.optimizer_section import OptimizerSettings
from diffusion_lab.config.validate import parse_section
from diffusion_lab.denoiser import Denoiser
from diffusion_lab.diffusion.loss import DenoisingLoss
from diffusion_lab.memory import keep_freed_memory
from diffusion_lab.networks.compiled import compile_in_place
from diffusion_lab.training.optimizers import create_optimizer

ROUNDS = 7
NO_BF16 = "bfloat16 is emulated here"
LEARNING_RATE = 1e-4
COMPILED = "ours, compiled"

Step = Callable[[], object]


def as_train_py(make: Callable[[], Step]) -> Step:
    """A step in a process that manages its memory as that of ``train.py`` does, for as long as it lives."""
    keep_freed_memory(torch.device("cpu")).__enter__()
    return make()


def our_step(bf16: bool, compiled: bool = False) -> Step:
    """The step of the training loop: the denoising loss, backward, clipping, optimizer."""
    denoiser = equal_work.our_denoiser()
    denoiser.compute_dtype = torch.bfloat16 if bf16 else torch.float32
    if compiled:
        compile_in_place(denoiser.network)
    images = torch.randn(equal_work.BATCH, *equal_work.IMAGE_SHAPE).clamp(-1, 1)
    return step_of(denoiser, images)


def step_of(denoiser: Denoiser, images: Tensor) -> Step:
    """What the training loop does with a batch."""
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
    """Noisy images, their steps, and the noise, as diffusers' examples make them."""
    scheduler = equal_work.peer("diffusers").DDPMScheduler(num_train_timesteps=1000)
    if images is None:
        images = torch.randn(equal_work.BATCH, *equal_work.IMAGE_SHAPE).clamp(-1, 1)

    def draw() -> tuple[Tensor, Tensor, Tensor]:
        noise = torch.randn_like(images)
        times = torch.randint(0, 1000, (len(images),), device=images.device)
        return scheduler.add_noise(images, noise, times), times, noise

    return draw


def diffusers_step(bf16: bool) -> Step:
    """The loop of diffusers' `train_unconditional.py`, without accelerate; channels-last where it runs in bfloat16."""
    network = equal_work.diffusers_unet()
    return peer_step(network, lambda images, times: network(images, times).sample, noising(), bf16)


def lucidrains_step(bf16: bool) -> Step:
    """The loss of denoising_diffusion_pytorch's `GaussianDiffusion`, with the noising of the other peer."""
    network = equal_work.lucidrains_unet()
    return peer_step(network, network, noising(), bf16)


def peer_step(
    network: nn.Module,
    predict: Callable[[Tensor, Tensor], Tensor],
    draw: Callable[[], tuple[Tensor, Tensor, Tensor]],
    bf16: bool,
) -> Step:
    """Squared error of the noise, backward, clipping to a norm of 1, AdamW: what both peers' loops do."""
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
    """Operations of one image in a step, by network."""
    ours, theirs = equal_work.our_denoiser().network, equal_work.diffusers_unet()
    other = equal_work.lucidrains_unet()
    found = {
        "ours": equal_work.training_flops(lambda images, times: ours(images, times / 1000)),
        "diffusers": equal_work.training_flops(lambda images, times: theirs(images, times).sample),
        "lucidrains": equal_work.training_flops(other),
    }
    equal_work.refuse_unequal(found["ours"], found["diffusers"])
    return found


def rows(taken: Turns, work: dict[str, int], bf16: bool) -> list[Row]:
    """The goals; where there is no bfloat16, the same comparisons in float32 stand without a bound of their own."""
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

    found = [against("diffusers fp32", "diffusers", 2.0 if bf16 else None, f"training step, {kind}, at equal work")]
    if bf16:
        found.append(against("diffusers bf16", "diffusers", 1.4, "training step, both bf16, at equal work"))
        found.append(against("lucidrains bf16", "lucidrains", 1.2, "training step, both bf16, per FLOP"))
    else:
        found.append(not_measured("1", "training step, both bf16, at equal work", NO_BF16))
        found.append(against("lucidrains fp32", "lucidrains", None, "training step, both fp32, per FLOP"))
    found.append(arithmetic("training step, arithmetic", f"ours {kind}"))
    if COMPILED in taken.seconds:
        found.append(against("diffusers fp32", "diffusers", None, f"training step, {kind}, compiled", COMPILED))
        found.append(arithmetic("training step, arithmetic, compiled", COMPILED))
    return found


def _rate(taken: Turns, way: str, image_flops: int) -> float:
    return equal_work.BATCH * image_flops / taken.median(way)


def measure(compiled: str = "no") -> list[Row]:
    """Take all steps in turns with the machine's limit."""
    missing = equal_work.missing_peers()
    if missing:
        return [not_measured("1", "training step at equal work", f"needs {missing}, of the extra peers")]
    work = flops()
    say("training step: " + ", ".join(f"{name} {count / 1e9:.1f} GFLOP an image" for name, count in work.items()))
    bf16 = bf16_is_accelerated()
    return rows(in_turns_apart(dict(ways(bf16, compiled == "yes")), ROUNDS), work, bf16)


def ways(bf16: bool, compiled: bool) -> Iterable[tuple[str, Callable[[], Step]]]:
    """What is taken in turns."""
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
