"""Quality of each prediction type on handwritten digits with default settings: a training run and 1,000 samples each.

    python -m benchmarks.predictions [epsilon x0 v flow edm]

trains one after the other (a few minutes each on two cores), writes the table into docs/predictions.md if all five
are requested, and keeps the runs in outputs/predictions/.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.report import write_table
from diffusion_lab import DiffusionSampler, load_denoiser
from diffusion_lab.evaluation.digits import DigitEvaluator
from diffusion_lab.image_grids import class_grid
from diffusion_lab.shapes import to_pixels

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "predictions.md"
PREDICTIONS = {
    "epsilon": ["diffusion=cosine", "model.diffusion.prediction=epsilon"],
    "x0": ["diffusion=cosine", "model.diffusion.prediction=x0"],
    "v": ["diffusion=cosine"],
    "flow": ["diffusion=flow"],
    "edm": ["diffusion=edm"],
}
"""Overrides for each, besides `experiment=digits`."""
SAMPLES_PER_CLASS = 100


@dataclass(frozen=True)
class Learned:
    """Results of a run."""

    command: str
    train_seconds: float
    label_agreement: float
    pixel_fd_ratio: float

    def row(self, name: str) -> str:
        """Return a row of the table."""
        return (
            f"| {name} | `{self.command}` | {self.label_agreement:.3f} | {self.pixel_fd_ratio:.2f} "
            f"| {self.train_seconds:.0f} s |"
        )


def learn(name: str, folder: Path, evaluator: DigitEvaluator) -> Learned:
    """Train with a prediction as a user would, and measure unguided samples by the default sampler."""
    arguments = ["experiment=digits", *PREDICTIONS[name]]
    quiet = ["logger=none", f"output.base_dir={folder}", "output.overwrite=true"]
    subprocess.run([sys.executable, "train.py", *arguments, *quiet], cwd=ROOT, check=True)
    sampler = DiffusionSampler(load_denoiser(folder))
    images, labels = sampler.sample_by_class(SAMPLES_PER_CLASS, 10, seed=1, batch_size=250)
    pixels, asked = to_pixels(images), torch.tensor(labels)
    shown = torch.arange(len(labels)).reshape(10, -1)[:, :12].flatten()
    class_grid(pixels[shown], asked[shown]).save(folder / "digits.png")
    return Learned(
        command=" ".join(["python train.py", *arguments[1:]]),
        train_seconds=json.loads((folder / "summary.json").read_text())["train_seconds"],
        label_agreement=evaluator.label_agreement(pixels, asked),
        pixel_fd_ratio=evaluator.pixel_fd_ratio(pixels),
    )


def main(names: list[str]) -> None:
    """Train and measure; print the table, and write it to the page if it is complete."""
    evaluator = DigitEvaluator()
    results = {name: learn(name, ROOT / "outputs" / "predictions" / name, evaluator) for name in names or PREDICTIONS}
    rows = [learned.row(name) for name, learned in results.items()]
    print("\n".join(rows))
    if results.keys() == PREDICTIONS.keys():
        write_table(PAGE, "predictions", rows)


if __name__ == "__main__":
    main(sys.argv[1:])
