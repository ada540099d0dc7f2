"""Scaling with batch size and resolution: images and pixels per second of a training step, and its memory.

    python -m benchmarks.growth [--json] [--rounds 2]

A step is that of the training loop in float32: loss, backward, clipping, optimizer. The network is small (32 channels,
multipliers 1, 2, 4, attention in the last stage). Batches of 1 to 256 are measured at 32×32; resolutions of 8 to 128
with the batch size that gives the same number of pixels. The share of the machine's limit includes the products of
attention. Memory is that of activations saved for the backward pass, counted and not timed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.equal_work import training_flops
from benchmarks.harness import Row, Timings, command, matrix_flops, matrix_product, print_progress, time_alternately
from benchmarks.memory import kept_bytes
from benchmarks.training_step import step_of
from diffusion_lab.cpu import cpu_optimizations
from diffusion_lab.create import create_ddpm
from diffusion_lab.denoiser import Denoiser

CHANNELS = 32
BATCHES, SIDE = (1, 4, 16, 64, 256), 32
SIDES, PIXELS = (8, 16, 32, 64, 128), 128**2
"""Least number of pixels per measurement: smaller batches make several steps, as one is too short to be timed."""
ROUNDS = 2
LIMIT = "limit"


class Size(NamedTuple):
    """Size of a batch: number of images, and pixels of a side."""

    batch: int
    side: int

    @property
    def steps(self) -> int:
        """Number of steps per measurement."""
        return max(1, PIXELS // (self.batch * self.side**2))

    @property
    def name(self) -> str:
        """Name of its timings."""
        return f"{self.side}×{self.side}, batch {self.batch}"

    def images_per_second(self, taken: Timings) -> float:
        """Return the speed in the median round."""
        return self.batch * self.steps / taken.median(self.name)

    def speed_up(self, first: Size, taken: Timings) -> float:
        """Return the ratio of pixels per second to those of another size, within a round."""
        pixels = [size.batch * size.steps * size.side**2 for size in (self, first)]
        return taken.ratio(first.name, self.name) * pixels[0] / pixels[1]


def small_denoiser(side: int) -> Denoiser:
    """Create the network for square images."""
    return create_ddpm(
        image_size=side,
        model_channels=CHANNELS,
        channel_multipliers=[1, 2, 4],
        use_attention=[False, False, True],
        num_res_blocks=1,
    )


def training_steps(size: Size) -> Callable[[], None]:
    """Return a function that makes the training steps of a measurement, like `train.py`."""
    denoiser = small_denoiser(size.side)
    step = step_of(denoiser, torch.randn(size.batch, *denoiser.image_shape).clamp(-1, 1))

    def steps() -> None:
        for _ in range(size.steps):
            step()

    return steps


def flops_of(side: int) -> int:
    """Return the operations of one image in a step; torch counts attention only if it consists of matrix products."""
    denoiser = small_denoiser(side)
    with sdpa_kernel(SDPBackend.MATH):
        return training_flops(lambda images, times: denoiser.network(images, times / 1000), denoiser.image_shape)


def kept_megabytes(size: Size) -> float:
    """Return the size of activations that a batch saves for its backward pass."""
    denoiser = small_denoiser(size.side)
    return kept_bytes(denoiser.network, torch.randn(size.batch, *denoiser.image_shape)) / 2**20


def rows(
    taken: Timings, flops: Mapping[int, int], kept: Mapping[Size, float], batches: Sequence[Size], sides: Sequence[Size]
) -> list[Row]:
    """Return a row for each size; the others are compared with the smallest one."""
    limit = matrix_flops() / taken.median(LIMIT)

    def row(size: Size, first: Size, unit: str) -> Row:
        of_pixels = unit == "kpixel/s"
        speed, least = (
            each.images_per_second(taken) * (each.side**2 / 1000 if of_pixels else 1) for each in (size, first)
        )
        share = size.images_per_second(taken) * flops[size.side] / limit
        notes = [f"{size.images_per_second(taken):,.3g} images/s"] if of_pixels else []
        notes.append(f"{kept[size]:,.0f} MB of activations")
        what = f"training step, {CHANNELS} channels, {size.name}"
        if size == first:
            return Row("8", what, speed, None, unit, None, share=share, note="; ".join(notes))
        note = "; ".join([f"peer: {first.name}", *notes])
        return Row("8", what, speed, least, unit, size.speed_up(first, taken), share=share, note=note)

    by_batch = [row(size, batches[0], "images/s") for size in batches]
    return by_batch + [row(size, sides[0], "kpixel/s") for size in sides]


def measure(
    rounds: str = str(ROUNDS), batches: Sequence[int] = BATCHES, sides: Sequence[int] = SIDES, pixels: int = PIXELS
) -> list[Row]:
    """Measure all sizes alternately with the machine's limit."""
    by_batch = [Size(batch, SIDE) for batch in batches]
    by_side = [Size(pixels // side**2, side) for side in sides]
    sizes = dict.fromkeys([*by_batch, *by_side])
    print_progress("growth: counting operations and memory")
    kept = {size: kept_megabytes(size) for size in sizes}
    flops = {side: flops_of(side) for side in {size.side for size in sizes}}
    print_progress("growth: training steps")
    ways: dict[str, Callable[[], object]] = {size.name: training_steps(size) for size in sizes}
    with cpu_optimizations(torch.device("cpu")):  # as in training
        taken = time_alternately({**ways, LIMIT: matrix_product(torch.float32)}, int(rounds))
    return rows(taken, flops, kept, by_batch, by_side)


if __name__ == "__main__":
    command("growth", measure, rounds=str(ROUNDS))
