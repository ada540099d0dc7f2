"""Comparison of all samplers on one checkpoint of the digits: their images, and quality against evaluations.

    python -m benchmarks.samplers CHECKPOINT

writes two tables of docs/samplers.md, a grid for each sampler into docs/images/samplers/, and the plot
docs/images/sampler-quality.png. Times are CPU time of one thread, so that other programs on
the machine hardly change them; about seven minutes of it in all.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from hydra import compose
from omegaconf import OmegaConf

from benchmarks.report import write_table
from diffusion_lab import DiffusionSampler, load_denoiser
from diffusion_lab.cli.hydra_app import initialized_hydra
from diffusion_lab.config.sampler_section import SamplerSettings
from diffusion_lab.denoiser import Denoiser
from diffusion_lab.evaluation.digits import DigitEvaluator
from diffusion_lab.image_grids import class_grid
from diffusion_lab.samplers import (
    DDIMSampler,
    DDPMSampler,
    DPMSolverPP2MSampler,
    DPMSolverPP2MSDESampler,
    DPMSolverPP3MSampler,
    EulerAncestralSampler,
    HeunSampler,
    Sampler,
    UniPCSampler,
)
from diffusion_lab.shapes import Labels, Pixels, to_pixels

ROOT = Path(__file__).resolve().parents[1]
CONF, DOCS = ROOT / "conf", ROOT / "docs"
PAGE, PLOT, GRIDS = DOCS / "samplers.md", DOCS / "images" / "sampler-quality.png", DOCS / "images" / "samplers"

PER_CLASS, SHOWN_PER_CLASS = 25, 10
"""Number of samples of each digit that are measured and shown."""

EVALUATIONS = (5, 10, 20, 50)
LONG = 1000
"""All timesteps of the checkpoint, for DDPM only."""


class Counted(torch.nn.Module):
    """Network wrapper that counts evaluations."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network, self.count = network, 0

    def forward(self, *arguments: object) -> torch.Tensor:
        self.count += 1
        output: torch.Tensor = self.network(*arguments)
        return output


def named_samplers() -> dict[str, Sampler]:
    """Return the samplers of `conf/sampler/` with the settings in these files."""
    samplers = {}
    with initialized_hydra("app", CONF):
        for file in sorted((CONF / "sampler").glob("*.yaml")):
            section = OmegaConf.to_container(compose("sample", [f"sampler={file.stem}"]).sampler)
            samplers[file.stem] = SamplerSettings.model_validate(section).build()
    return samplers


@dataclass(frozen=True)
class Drawn:
    """Unguided images of each class, their labels, network evaluations per image, and CPU time for all."""

    pixels: Pixels
    labels: Labels
    evaluations: int
    seconds: float


@cache
def draw(denoiser: Denoiser, sampler: Sampler, per_class: int = PER_CLASS) -> Drawn:
    """Sample, counting evaluations and time; cached for each sampler."""
    counted = Counted(denoiser.network)
    denoiser.network = counted
    started = time.process_time()
    images, labels = DiffusionSampler(denoiser).sample_by_class(
        per_class, 10, sampler=sampler, seed=1, batch_size=per_class * 10
    )
    seconds = time.process_time() - started
    denoiser.network = counted.network
    return Drawn(to_pixels(images), torch.tensor(labels), counted.count, seconds)


def measure_named(denoiser: Denoiser, evaluator: DigitEvaluator) -> Iterator[str]:
    """Yield a row for each file of `conf/sampler/`, and write its grid."""
    GRIDS.mkdir(parents=True, exist_ok=True)
    for name, sampler in named_samplers().items():
        drawn = draw(denoiser, sampler)
        shown = torch.arange(len(drawn.labels)).reshape(10, -1)[:, :SHOWN_PER_CLASS].flatten()
        class_grid(drawn.pixels[shown], drawn.labels[shown]).save(GRIDS / f"{name}.png")
        agreement = evaluator.label_agreement(drawn.pixels, drawn.labels)
        row = (
            f"| `sampler={name}` | {drawn.evaluations} | {drawn.seconds:.1f} s | {agreement:.3f} "
            f"| {evaluator.pixel_fd_ratio(drawn.pixels):.2f} |"
        )
        print(row, flush=True)
        yield row


def curve_samplers(evaluations: int) -> dict[str, Sampler]:
    """Return the samplers to compare, each with as many steps as that number of evaluations allows.

    DDPM with the spacing of the published comparison (arXiv:2010.02502, table 1); with ``trailing`` and small variance
    it is ``euler_ancestral``.
    """
    steps = None if evaluations == LONG else evaluations
    return {
        "ddpm, small variance": DDPMSampler(steps=steps, spacing="leading"),
        "ddpm, large variance": DDPMSampler(steps=steps, spacing="leading", variance="large"),
        "ddim": DDIMSampler(steps=evaluations),
        "euler_ancestral": EulerAncestralSampler(steps=evaluations),
        "heun": HeunSampler(steps=(evaluations + 1) // 2),
        "dpm_solver_pp_2m": DPMSolverPP2MSampler(steps=evaluations, spacing="log_snr"),
        "dpm_solver_pp_2m_sde": DPMSolverPP2MSDESampler(steps=evaluations, spacing="log_snr"),
        "dpm_solver_pp_3m": DPMSolverPP3MSampler(steps=max(evaluations - 1, 1), spacing="log_snr"),
        "unipc": UniPCSampler(steps=evaluations, spacing="log_snr"),
    }


class Point(NamedTuple):
    """Point of the curves: a Fréchet ratio, and the seconds of CPU time of its images."""

    distance: float
    seconds: float


Curves = dict[str, dict[int, Point]]
"""Points by sampler and number of evaluations."""


def measure_curve(denoiser: Denoiser, evaluator: DigitEvaluator) -> Curves:
    """Measure Fréchet distance and time of each sampler by its number of evaluations."""
    curves: Curves = {}
    for evaluations in (*EVALUATIONS, LONG):
        for name, sampler in curve_samplers(evaluations).items():
            if evaluations == LONG and not name.startswith("ddpm,"):
                continue
            drawn = draw(denoiser, sampler)
            point = Point(evaluator.pixel_fd_ratio(drawn.pixels), drawn.seconds)
            curves.setdefault(name, {})[evaluations] = point
            print(name, evaluations, f"{point.distance:.2f}, {point.seconds:.1f} s", flush=True)
    return curves


def curve_rows(curves: Curves) -> list[str]:
    """Return the rows of the table."""
    columns = (*EVALUATIONS, LONG)
    return [
        f"| {name} | {' | '.join(f'{points[count].distance:.2f}' if count in points else '' for count in columns)} |"
        for name, points in curves.items()
    ]


def plot(curves: Curves) -> None:
    """Distance against evaluations and against seconds, all axes logarithmic."""
    import matplotlib

    matplotlib.use("Agg")  # no display needed
    from matplotlib import pyplot as plt

    figure, (by_evaluations, by_time) = plt.subplots(1, 2, figsize=(13, 5.5), layout="constrained", sharey=True)
    for (name, points), marker in zip(curves.items(), "os^vDPX*h", strict=True):
        distances = [point.distance for point in points.values()]
        by_evaluations.loglog(points.keys(), distances, marker=marker, label=name)
        by_time.loglog([point.seconds for point in points.values()], distances, marker=marker)
    reference = curves["ddpm, small variance"]
    highest = 2 * reference[EVALUATIONS[0]].distance  # samplers that diverge with few steps are cut off
    for axes in (by_evaluations, by_time):
        axes.minorticks_off()
        axes.set_ylim(1, highest)
        axes.grid(alpha=0.3)
    counts, ticks = (*EVALUATIONS, LONG), range(1, int(highest) + 1)
    by_evaluations.set_xticks(counts, labels=[str(count) for count in counts])
    by_evaluations.set_yticks(ticks, labels=[str(tick) for tick in ticks])
    by_evaluations.set_xlabel("evaluations of the network for an image")
    by_evaluations.set_ylabel("Fréchet distance to training digits,\nover that of held-out digits")
    by_evaluations.set_title("Quality against evaluations: one checkpoint of the digits")
    by_evaluations.legend()
    by_time.set_xticks(seconds := (1, 3, 10, 30, 100), labels=[str(second) for second in seconds])
    by_time.set_xlabel(f"seconds of CPU time for {10 * PER_CLASS} images")
    by_time.axhline(reference[LONG].distance, color="black", linewidth=1, linestyle="--")
    by_time.axvline(reference[LONG].seconds / 20, color="black", linewidth=1, linestyle="--")
    by_time.set_title("Quality against time; dashed: DDPM with every step, and 1/20 of its time")
    figure.savefig(PLOT, dpi=120)


def main(checkpoint: str) -> None:
    """Measure, plot, write."""
    torch.set_num_threads(1)
    denoiser, evaluator = load_denoiser(checkpoint), DigitEvaluator()
    draw(denoiser, DDIMSampler(steps=1))  # warm-up: work of the first call is not part of a sampler's time
    write_table(PAGE, "samplers", list(measure_named(denoiser, evaluator)))
    curves = measure_curve(denoiser, evaluator)
    write_table(PAGE, "curve", curve_rows(curves))
    plot(curves)


if __name__ == "__main__":
    main(*sys.argv[1:])
