"""Summary of a finished run."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from diffusion_lab.files.reading import read_json
from diffusion_lab.files.run_files import SUMMARY
from diffusion_lab.files.writing import atomic_write


@dataclass(frozen=True)
class TrainingSummary:
    """Summary of a finished run, saved as ``summary.json`` in the run folder.

    ``forward_flops`` is the number of floating-point operations of the network for one image, None if it cannot be
    counted. Runs with equal ``config_hash`` and ``data_fingerprint`` may be compared as repetitions of the same run;
    ``validation_fingerprint`` identifies the images that the metric was computed on, None if there were none. A
    checkpoint is None if it was removed.
    """

    run_folder: str
    epochs: int
    steps: int
    parameters: int
    forward_flops: int | None
    threads: int
    train_images: int
    metric: str
    """Name under which ``training.validation.metric`` is logged; ``mode`` is whether lower or higher is better."""
    best_value: float | None
    best_epoch: int | None
    best_checkpoint: str | None
    last_checkpoint: str | None
    train_seconds: float
    images_per_second: float
    peak_memory_mb: float
    config_hash: str
    data_fingerprint: str
    validation_fingerprint: str | None = None
    mode: str = "min"
    left_out: dict[str, int] = field(default_factory=dict)
    """Number of skipped files of the data folders by reason; their names are in ``logs/run.log``."""
    evaluation: dict[str, Any] | None = None
    """Settings and cost of the evaluation of samples during training; None if it was off."""

    def write(self) -> None:
        """Replace ``summary.json`` atomically."""
        with atomic_write(Path(self.run_folder) / SUMMARY, durable=False) as file:
            file.write_text(json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def read(cls, run_folder: Path) -> TrainingSummary | None:
        """Return the summary of a run folder; None if it is missing or of another version."""
        try:
            return cls(**read_json(run_folder / SUMMARY))
        except (OSError, ValueError, TypeError):
            return None
