"""DDPM's two variances with few steps and with all: which is nearer to real digits, and how sure that is.

    python -m benchmarks.variances CHECKPOINT [--seeds 4] [--per-class 100]

The published comparison (arXiv:2006.11239, arXiv:2010.02502) is of a model that predicts epsilon with linear betas:

    python train.py diffusion=linear model.diffusion.prediction=epsilon output.base_dir=outputs/linear

Both variances begin with the same noise and draw the same in each step, so seeds are compared in pairs. Going through
all 1,000 steps takes many minutes a seed and variance on two cores.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Sequence
from typing import Literal

from benchmarks.harness import say
from diffusion_lab import DiffusionSampler, load_denoiser
from diffusion_lab.denoiser import Denoiser
from diffusion_lab.evaluation.digits import DigitJudge
from diffusion_lab.samplers import DDPMSampler
from diffusion_lab.shapes import to_pixels

STEPS = (10, None)
"""Few, and the whole process."""

VARIANCES: tuple[Literal["small", "large"], ...] = ("small", "large")


def distances(
    denoiser: Denoiser, judge: DigitJudge, steps: int | None, seeds: Sequence[int], per_class: int
) -> dict[str, list[float]]:
    """Fréchet ratio by variance, one a seed; lower is better."""
    found: dict[str, list[float]] = {variance: [] for variance in VARIANCES}
    for seed in seeds:
        for variance in VARIANCES:
            sampler = DDPMSampler(steps=steps, spacing="leading", variance=variance)
            images, _ = DiffusionSampler(denoiser).sample_by_class(
                per_class, 10, sampler=sampler, seed=seed, batch_size=per_class * 10
            )
            found[variance].append(judge.pixel_fd_ratio(to_pixels(images)))
            say(f"{steps or 'all'} steps, seed {seed}, {variance} variance: {found[variance][-1]:.4f}")
    return found


def row(steps: int | None, found: dict[str, list[float]]) -> str:
    """A line of the table: both means, and the mean of large less small with its standard error."""
    differences = [large - small for small, large in zip(found["small"], found["large"], strict=True)]
    error = statistics.stdev(differences) / math.sqrt(len(differences)) if len(differences) > 1 else math.nan
    means = " | ".join(f"{statistics.mean(found[variance]):.3f}" for variance in VARIANCES)
    return f"| {steps or 'all'} | {means} | {statistics.mean(differences):+.4f} ± {error:.4f} |"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.variances")
    parser.add_argument("checkpoint")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--per-class", type=int, default=100)
    given = parser.parse_args()
    denoiser, judge = load_denoiser(given.checkpoint), DigitJudge()
    print("| steps | small variance | large variance | large less small |\n|---|---|---|---|")
    for steps in STEPS:
        found = distances(denoiser, judge, steps, range(1, given.seeds + 1), given.per_class)
        print(row(steps, found), flush=True)


if __name__ == "__main__":
    main()
