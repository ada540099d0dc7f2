"""Comparison of DDPM's two variances with few and with all steps: distance to real digits, with its standard error.

    python -m benchmarks.variances CHECKPOINT [--seeds 6] [--per-class 25]

writes its table into docs/samplers.md. The published comparison (arXiv:2006.11239, arXiv:2010.02502) is of a model that
predicts epsilon with linear betas:

    python train.py diffusion=linear model.diffusion.prediction=epsilon output.base_dir=outputs/linear

Both variances start from the same noise and use the same draws in each step, so they are compared seed by seed: the
distances are those of all images together, the standard error of their difference is the jackknife's, which omits one
seed at a time (Efron and Stein, 1981). All 1,000 steps take about an hour on two cores.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch

from benchmarks.harness import print_progress
from benchmarks.report import write_table
from benchmarks.samplers import PAGE
from diffusion_lab import DiffusionSampler, load_denoiser
from diffusion_lab.denoiser import Denoiser
from diffusion_lab.evaluation.digits import DigitEvaluator
from diffusion_lab.samplers import DDPMSampler
from diffusion_lab.shapes import Pixels, to_pixels

STEPS = (10, None)
"""Few steps, and all timesteps."""


class Pair(NamedTuple):
    """Images of one seed with both variances."""

    small: Pixels
    large: Pixels


class Comparison(NamedTuple):
    """Fréchet ratios of all images of each variance; large minus small with its standard error."""

    small: float
    large: float
    difference: float
    error: float


def draw(denoiser: Denoiser, steps: int | None, seed: int, per_class: int) -> Pair:
    """Sample ``per_class`` digits of each class with both variances, from the same noise."""

    def by(variance: Literal["small", "large"]) -> Pixels:
        sampler = DDPMSampler(steps=steps, spacing="leading", variance=variance)
        front = DiffusionSampler(denoiser)
        images, _ = front.sample_by_class(per_class, 10, sampler=sampler, seed=seed, batch_size=per_class * 10)
        return to_pixels(images)

    return Pair(by("small"), by("large"))


def compare(evaluator: DigitEvaluator, pairs: Sequence[Pair]) -> Comparison:
    """Return the distances of all pairs together; the error is NaN for a single pair."""

    def distances(chosen: Sequence[Pair]) -> tuple[float, float]:
        small, large = (evaluator.pixel_fd_ratio(torch.cat(images)) for images in zip(*chosen, strict=True))
        return small, large

    small, large = distances(pairs)
    count, error = len(pairs), math.nan
    if count > 1:
        without = [distances([*pairs[:left_out], *pairs[left_out + 1 :]]) for left_out in range(count)]
        differences = torch.tensor([other - one for one, other in without], dtype=torch.float64)
        error = math.sqrt((count - 1) * float(differences.var(correction=0)))
    return Comparison(small, large, large - small, error)


def row(steps: int | None, images: int, result: Comparison) -> str:
    """Return a row of the table."""
    means = f"{result.small:.3f} | {result.large:.3f}"
    return f"| {steps or 'all 1,000'} | {images:,} | {means} | {result.difference:+.4f} ± {result.error:.4f} |"


def main() -> None:
    """Measure, print after each seed, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.variances")
    parser.add_argument("checkpoint")
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--per-class", type=int, default=25)
    options = parser.parse_args()
    denoiser, evaluator = load_denoiser(options.checkpoint), DigitEvaluator()
    rows = []
    for steps in STEPS:
        pairs: list[Pair] = []
        for seed in range(1, options.seeds + 1):
            pairs.append(draw(denoiser, steps, seed, options.per_class))
            line = row(steps, 10 * options.per_class * seed, compare(evaluator, pairs))
            print_progress(line)
        rows.append(line)
    write_table(PAGE, "variances", rows)


if __name__ == "__main__":
    main()
