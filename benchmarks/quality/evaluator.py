"""Evaluator of all programs: kernel distance and Fréchet distance to the training images."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.quality.program import RESULT
from diffusion_lab.data.source import ArraySource, PixelArray
from diffusion_lab.evaluation.measure import measure
from diffusion_lab.evaluation.measurement import Measurement
from diffusion_lab.evaluation.real_images import RealImages
from diffusion_lab.features import cached_features, create_extractor, extract, open_image_set


@dataclass(frozen=True)
class Point:
    """Quality of one snapshot: a point on the curve of a program."""

    program: str
    parameters: int
    seconds: float
    measurement: Measurement
    pixels: PixelArray


class SnapshotEvaluator:
    """Compares the samples of each snapshot with the real images of a dataset."""

    def __init__(self, train: Path, held_out: Path, seed: int = 0) -> None:
        real = open_image_set(train)
        self.extractor = create_extractor("auto", source=real)
        features = [cached_features(self.extractor, open_image_set(folder)) for folder in (train, held_out)]
        self.real = RealImages(features[0], features[1], None, seed)
        self.shape = (real.channels, real.image_size)

    def evaluate(self, out: Path) -> Iterator[Point]:
        """Evaluate each snapshot in the result folder of a program."""
        result = json.loads((out / RESULT).read_text())
        for snapshot in result["snapshots"]:
            pixels = np.load(out / snapshot["images"])
            samples = ArraySource(pixels, np.zeros(len(pixels), np.int64), ())
            measurement = measure(extract(self.extractor, samples), self.real, metrics=("kid", "fd"))
            yield Point(result["program"], result["parameters"], snapshot["seconds"], measurement, pixels)
