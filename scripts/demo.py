"""What `make demo` runs: train on real handwritten digits, sample from the model, and measure the samples.

The two commands it runs are those that a user would type; it prints them. The measures go into the run's summary.json.
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
from diffusion_lab.command_line import command
from diffusion_lab.evaluation.digits import DigitJudge
from diffusion_lab.messages import show_warnings_plainly
from diffusion_lab.pictures import grid_by_class
from diffusion_lab.samplers import DDIMSampler
from diffusion_lab.shapes import to_pixels

ROOT = Path(__file__).resolve().parent.parent
RUN = Path("outputs/demo")
SAMPLES_PER_CLASS = 100
SAMPLER = DDIMSampler(steps=20)
SHOWN_PER_CLASS = 12


def main() -> None:
    """Train, sample, measure, and say where everything is."""
    os.chdir(ROOT)
    show_warnings_plainly()
    started = time.monotonic()
    run("train.py", "experiment=digits", f"output.base_dir={RUN}", "output.overwrite=true")
    run(
        "sample.py",
        f"ckpt={RUN}",
        "num_samples=40",
        "seed=0",
        f"output.base_dir={RUN}",
        "output.subdirs.generated=generated",
        "output.overwrite=true",
    )
    print("\nMeasuring 1,000 samples without and 1,000 with guidance …", flush=True)
    summary_file = RUN / "summary.json"
    summary = json.loads(summary_file.read_text()) | measure()
    summary["demo_seconds"] = round(time.monotonic() - started, 1)
    summary_file.write_text(json.dumps(summary, indent=2) + "\n")
    report(summary)


def run(script: str, *arguments: str) -> None:
    """Run one of the project's commands, showing it first."""
    print(f"\n$ {command(script, *arguments)}", flush=True)
    done = subprocess.run([sys.executable, script, *arguments])
    if done.returncode:
        raise SystemExit(f"{script} failed with exit code {done.returncode}; its message is above")


def measure() -> dict[str, float]:
    """Judge samples of every digit, and keep a picture of some."""
    sampler = DiffusionSampler(load_denoiser(RUN))
    judge = DigitJudge()
    measures = {"real_accuracy": round(judge.real_accuracy, 4)}
    for suffix, scale in (("", 1.0), ("_guided", 2.0)):
        images, labels = sampler.sample_by_class(
            SAMPLES_PER_CLASS, 10, scale, show_progress=True, sampler=SAMPLER, seed=1, batch_size=250
        )
        pixels, asked = to_pixels(images), torch.tensor(labels)
        measures[f"label_agreement{suffix}"] = round(judge.label_agreement(pixels, asked), 4)
        measures[f"pixel_fd_ratio{suffix}"] = round(judge.pixel_fd_ratio(pixels), 3)
        shown = torch.arange(len(labels)).reshape(10, -1)[:, :SHOWN_PER_CLASS].flatten()
        grid_by_class(pixels[shown], asked[shown], sampler.model.class_names).save(RUN / f"digits{suffix}.png")
    return measures


def report(summary: dict[str, float]) -> None:
    """Print the measures and the paths."""
    agreement, guided = summary["label_agreement"], summary["label_agreement_guided"]
    print(
        f"""
Samples that a judge of real digits ({summary["real_accuracy"]:.1%} right on real ones) takes for the digit asked for:
  without guidance {agreement:.1%}, with guidance of scale 2 {guided:.1%} (of 1,000 each)
Fréchet distance of the samples to the training digits, over that of other real digits: {summary["pixel_fd_ratio"]:.2f}

Sample grid   {RUN / "digits.png"} (with guidance: {RUN / "digits_guided.png"})
Run folder    {RUN}
Open next     {RUN / "samples"}: pictures of every tenth epoch; {RUN / "logs/metrics.jsonl"}: the losses
              README.md, "Your own images"

make demo took {summary["demo_seconds"]:.0f} s after the set-up, {summary["train_seconds"]:.0f} of them training."""
    )


if __name__ == "__main__":
    main()
