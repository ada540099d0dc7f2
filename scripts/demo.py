"""Demo (`make demo`): train on real handwritten digits, sample from the model, and measure the samples.

It prints the three commands that it runs, which are those that a user would type. More measurements are added to the
run's summary.json: the accuracy of a digit classifier, and Fréchet and kernel distance with their null rows
(docs/evaluation.md). It ends with a page about all this (docs/reports.md).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import torch

from diffusion_lab import DiffusionSampler, load_denoiser
from diffusion_lab.console.command_line import CONF, command
from diffusion_lab.console.messages import show_plain_warnings
from diffusion_lab.data.digits import digits
from diffusion_lab.data.source import ArraySource
from diffusion_lab.evaluation.digits import DigitEvaluator
from diffusion_lab.evaluation.measure import measure
from diffusion_lab.evaluation.measurement import Measurement
from diffusion_lab.evaluation.metrics import Estimate
from diffusion_lab.evaluation.real_images import RealImages
from diffusion_lab.features import FeatureExtractor, cached_features, create_extractor, extract
from diffusion_lab.image_grids import class_grid
from diffusion_lab.reports.build import Report
from diffusion_lab.reports.sampled import sample_for_report
from diffusion_lab.samplers import DDIMSampler
from diffusion_lab.shapes import Labels, Pixels, to_pixels

ROOT = Path(__file__).resolve().parent.parent
RUN = Path("outputs/demo")
SAMPLES_PER_CLASS = 100
SAMPLER = DDIMSampler(steps=20)
SHOWN_PER_CLASS = 12
DISTANCES = ("fd", "kid")
SCALES = (("", 1.0), ("_guided", 2.0))
"""Suffixes of the keys in summary.json with the guidance scales."""


def main() -> None:
    """Train, sample, measure, and print the paths of the results."""
    os.chdir(ROOT)
    show_plain_warnings()
    started = time.monotonic()
    run("train", "experiment=digits", f"output.base_dir={RUN}", "output.overwrite=true")
    run(
        "sample",
        f"ckpt={RUN}",
        "num_samples=40",
        "seed=0",
        f"output.base_dir={RUN}",
        "output.subdirs.generated=generated",
        "output.overwrite=true",
    )
    run("evaluate", f"ckpt={RUN}", "num_samples=500", "sampler.steps=20", "guidance_scale=2")
    print("\nMeasuring 1,000 samples without and 1,000 with guidance …", flush=True)
    summary_file = RUN / "summary.json"
    measures, measurements = measure_samples()
    summary = json.loads(summary_file.read_text()) | measures
    page = write_page()
    summary["demo_seconds"] = round(time.monotonic() - started, 1)
    summary_file.write_text(json.dumps(summary, indent=2) + "\n")
    report(summary, measurements, page)


def run(name: str, *arguments: str) -> None:
    """Print and run one of the project's commands."""
    print(f"\n$ {command(name, *arguments)}", flush=True)
    done = subprocess.run([sys.executable, f"{name}.py", *arguments])
    if done.returncode:
        raise SystemExit(f"{name}.py failed with exit code {done.returncode}; its message is above")


def measure_samples() -> tuple[dict[str, float], list[Measurement]]:
    """Measure samples of every digit without and with guidance, and save a grid of some."""
    sampler = DiffusionSampler(load_denoiser(RUN))
    evaluator, distances = DigitEvaluator(), Distances()
    measures, measurements = {"real_accuracy": round(evaluator.real_accuracy, 4)}, []
    for suffix, scale in SCALES:
        images, labels = sampler.sample_by_class(
            SAMPLES_PER_CLASS, 10, scale, show_progress=True, sampler=SAMPLER, seed=1, batch_size=250
        )
        pixels, asked = to_pixels(images), torch.tensor(labels)
        measures[f"label_agreement{suffix}"] = round(evaluator.label_agreement(pixels, asked), 4)
        measures[f"pixel_fd_ratio{suffix}"] = round(evaluator.pixel_fd_ratio(pixels), 3)
        measurements.append(distances.measure(pixels, asked))
        measures |= {name + suffix: value for name, value in numbers(measurements[-1]).items()}
        shown = torch.arange(len(labels)).reshape(10, -1)[:, :SHOWN_PER_CLASS].flatten()
        class_grid(pixels[shown], asked[shown], sampler.model.class_names).save(RUN / f"digits{suffix}.png")
    return measures, measurements


class Distances:
    """Measures the distance of digits to the training digits, in the features of a classifier of digits."""

    def __init__(self, extractor: FeatureExtractor | None = None) -> None:
        train, self._held_out = digits(subset="train"), digits(subset="heldout")
        self.extractor = extractor or create_extractor("digits", source=train)
        self._real = RealImages(cached_features(self.extractor, train), extract(self.extractor, self._held_out))

    def measure(self, pixels: Pixels, labels: Labels) -> Measurement:
        """Measure digits ``(N, 1, 8, 8)`` with the requested labels ``(N,)``."""
        source = ArraySource(pixels.cpu().numpy(), labels.tolist(), self._held_out.class_names)
        return measure(extract(self.extractor, source), self._real, metrics=DISTANCES)


def numbers(measurement: Measurement) -> dict[str, float]:
    """Return the entries for summary.json: each distance, and those of its null row for equal numbers of images."""
    entries = {}
    for row in measurement.rows:
        entries[row.name] = row.estimate.value
        if row.limit is not None:
            entries[f"{row.name}_infinity"] = row.limit.value
        if row.null is not None:
            entries[f"{row.name}_null"] = row.null.estimate.value
            entries[f"{row.name}_beside_null"] = (row.null.matched or row.estimate).value
    return {name: round(value, 5) for name, value in entries.items()}


def write_page() -> Path:
    """Sample denoising strips and a grid of guidance × steps, write the report of the run, and return its path."""
    sample_for_report(RUN)
    page = Report([RUN], conf=CONF)
    page.write()
    return page.file


def report(summary: dict[str, float], measurements: list[Measurement], page: Path) -> None:
    """Print the measurements and the paths."""
    agreement, guided = summary["label_agreement"], summary["label_agreement_guided"]
    print(
        f"""
Samples that a classifier of real digits recognizes as requested
({summary["real_accuracy"]:.1%} accuracy on real ones, 1,000 samples each):
  without guidance {agreement:.1%}, with guidance scale 2 {guided:.1%}
Fréchet distance of the samples to the training digits, over that of other
real digits: {summary["pixel_fd_ratio"]:.2f}

{distance_table(measurements)}

Sample grid   {RUN / "digits.png"}
              with guidance: {RUN / "digits_guided.png"}
Run folder    {RUN}
Open next     {page}: one page for the browser with curves,
              samples of every tenth epoch, quality by class, images on their
              way from noise, all settings, and the commands to go on
              docs/evaluation.md: what the distances mean
              README.md, "Your own images"

make demo took {summary["demo_seconds"]:.0f} s after the set-up, {summary["train_seconds"]:.0f} of them training."""
    )


def distance_table(measurements: list[Measurement]) -> str:
    """Return the distances with their intervals, and for equal numbers of images next to the null row."""
    first = measurements[0]
    lines = [f"Distances to the training digits in the features {first.extractor}, with 95 % intervals:"]
    for index, row in enumerate(first.rows):
        lines.append(f"{row.name}, lower is better")
        for (_, scale), measurement in zip(SCALES, measurements, strict=True):
            lines.append(table_line(f"{measurement.n:,} samples{describe(scale)}", measurement.rows[index].estimate))
        if row.null is None:
            continue
        lines.append(f"  for equal numbers, {row.null.n:,} images against {row.null.reference_n:,} real ones:")
        for (_, scale), measurement in zip(SCALES, measurements, strict=True):
            null = measurement.rows[index].null
            matched = None if null is None else null.matched
            lines.append(table_line(f"samples{describe(scale)}", matched or measurement.rows[index].estimate))
        lines.append(table_line("other real digits (null row)", row.null.estimate))
    return "\n".join(lines)


def describe(scale: float) -> str:
    """Describe a guidance scale."""
    return ", without guidance" if scale == 1 else f", guidance scale {scale:g}"


def table_line(name: str, estimate: Estimate) -> str:
    """Return one line of the table."""
    return f"  {name:36}{estimate.value:>10.3g} ({estimate.low:.3g} to {estimate.high:.3g})"


if __name__ == "__main__":
    main()
