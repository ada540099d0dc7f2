"""What a finished run has to say."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from diffusion_lab.atomic_files import atomic_write
from diffusion_lab.run_files import SUMMARY
from diffusion_lab.safe_files import read_json


@dataclass(frozen=True)
class TrainingSummary:
    """What a finished run has to say; it is ``summary.json`` in the run folder.

    ``forward_flops`` are the operations of the network for one image, None where they cannot be counted. Results of
    one ``config_hash`` and one ``data_fingerprint`` may be compared as results of the same thing;
    ``validation_fingerprint`` identifies the images that the metric was taken on, None where there were none. A
    checkpoint is None where somebody removed it.
    """

    run_folder: str
    epochs: int
    steps: int
    parameters: int
    forward_flops: int | None
    threads: int
    train_images: int
    metric: str
    """The name by which ``training.validation.metric`` is logged; ``mode`` says whether lower or higher is better."""
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
    """Files of the data folders that were not used, by reason; their names are in ``logs/run.log``."""
    evaluation: dict[str, Any] | None = None
    """How samples were compared with real images while training, and what that cost; None where they were not."""

    def write(self) -> None:
        """Replace ``summary.json`` in one move."""
        with atomic_write(Path(self.run_folder) / SUMMARY, lasting=False) as file:
            file.write_text(json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def read(cls, run_folder: Path) -> TrainingSummary | None:
        """The summary of a run folder; None where there is none, or none that this version wrote."""
        try:
            return cls(**read_json(run_folder / SUMMARY))
        except (OSError, ValueError, TypeError):
            return None
