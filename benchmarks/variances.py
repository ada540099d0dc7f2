"""DDPM's two variances with few steps and with all: which is nearer to real digits, and how sure that is.

    python -m benchmarks.variances CHECKPOINT [--seeds 6] [--per-class 25]

writes its table into docs/samplers.md. The published comparison (arXiv:2006.11239, arXiv:2010.02502) is of a model that
predicts epsilon with linear betas:

    python train.py diffusion=linear model.diffusion.prediction=epsilon output.base_dir=outputs/linear

Both variances begin with the same noise and draw the same in each step, so they are compared seed by seed: the
distances are those of all images together, the standard error of their difference is the jackknife's, which leaves out
one seed after the other (Efron and Stein, 1981). Going through all 1,000 steps takes about an hour on two cores.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch

from benchmarks.harness import say
from benchmarks.report import write_table
from benchmarks.samplers import PAGE
from diffusion_lab import DiffusionSampler, load_denoiser
from diffusion_lab.denoiser import Denoiser
from diffusion_lab.evaluation.digits import DigitJudge
from diffusion_lab.samplers import DDPMSampler
from diffusion_lab.shapes import Pixels, to_pixels

STEPS = (10, None)
"""Few, and the whole process."""


class Pair(NamedTuple):
    """Images of one seed by both variances."""

    small: Pixels
    large: Pixels


class Comparison(NamedTuple):
    """Fréchet ratios of all images of each variance; large less small with its standard error."""

    small: float
    large: float
    difference: float
    error: float


def draw(denoiser: Denoiser, steps: int | None, seed: int, per_class: int) -> Pair:
    """So many digits of each class by both variances, from the same noise."""

    def by(variance: Literal["small", "large"]) -> Pixels:
        sampler = DDPMSampler(steps=steps, spacing="leading", variance=variance)
        front = DiffusionSampler(denoiser)
        images, _ = front.sample_by_class(per_class, 10, sampler=sampler, seed=seed, batch_size=per_class * 10)
        return to_pixels(images)

    return Pair(by("small"), by("large"))


def compare(judge: DigitJudge, pairs: Sequence[Pair]) -> Comparison:
    """The distances of all pairs together; the error is NaN for a single one, which tells nothing of itself."""

    def distances(chosen: Sequence[Pair]) -> tuple[float, float]:
        small, large = (judge.pixel_fd_ratio(torch.cat(images)) for images in zip(*chosen, strict=True))
        return small, large

    small, large = distances(pairs)
    count, error = len(pairs), math.nan
    if count > 1:
        without = [distances([*pairs[:left_out], *pairs[left_out + 1 :]]) for left_out in range(count)]
        differences = torch.tensor([other - one for one, other in without], dtype=torch.float64)
        error = math.sqrt((count - 1) * float(differences.var(correction=0)))
    return Comparison(small, large, large - small, error)


def row(steps: int | None, images: int, found: Comparison) -> str:
    """A line of the table."""
    means = f"{found.small:.3f} | {found.large:.3f}"
    return f"| {steps or 'all 1,000'} | {images:,} | {means} | {found.difference:+.4f} ± {found.error:.4f} |"


def main() -> None:
    """Measure, print after each seed, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.variances")
    parser.add_argument("checkpoint")
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--per-class", type=int, default=25)
    given = parser.parse_args()
    denoiser, judge = load_denoiser(given.checkpoint), DigitJudge()
    rows = []
    for steps in STEPS:
        pairs: list[Pair] = []
        for seed in range(1, given.seeds + 1):
            pairs.append(draw(denoiser, steps, seed, given.per_class))
            line = row(steps, 10 * given.per_class * seed, compare(judge, pairs))
            say(line)
        rows.append(line)
    write_table(PAGE, "variances", rows)


if __name__ == "__main__":
    main()
