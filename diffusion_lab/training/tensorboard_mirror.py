"""TensorBoard logger: scalars, images, and the settings as text and hyperparameters."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from PIL import Image
from rich.console import Console

from diffusion_lab.files.writing import atomic_write
from diffusion_lab.tracking.axes import Derived
from diffusion_lab.training.mirror import Mirror
from diffusion_lab.typed_settings.settings_reader import leaves

if TYPE_CHECKING:
    from torch.utils.tensorboard.writer import SummaryWriter

FLUSH_SECONDS = 10
"""Longest time until events are written to the file."""


class TensorBoardMirror(Mirror):
    """Writes events and ``hparams.yaml`` to ``logs/tensorboard/NAME``; NAME is the name of the run in TensorBoard.

    Args:
        folder: ``logs/tensorboard``.
        run_name: NAME.
        settings: The resolved settings.
        metrics: Names of scalars by which runs are compared on the HPARAMS page.
        console: Console for a warning if writing fails.
        resumed_at: Optimizer steps done when a run is resumed; events of later steps are purged.
        derived: Adds throughput and values of real images.
    """

    def __init__(
        self,
        folder: Path,
        run_name: str,
        settings: Mapping[str, Any],
        metrics: tuple[str, ...],
        console: Console,
        resumed_at: int | None = None,
        derived: Derived | None = None,
    ) -> None:
        super().__init__("TensorBoard", console)
        self.derived = derived or Derived()
        self.folder = folder / run_name
        self.writer: SummaryWriter | None = None
        try:
            from torch.utils.tensorboard.writer import SummaryWriter  # lazy: it takes half a second to import

            self.writer = SummaryWriter(str(self.folder), purge_step=resumed_at, flush_secs=FLUSH_SECONDS)
            self._write_settings(self.writer, settings, metrics)
        except Exception as error:
            self.give_up(error)

    def send_metrics(self, metrics: Mapping[str, Any], step: int) -> None:
        assert self.writer is not None
        for name, value in self.derived.add(metrics, step).items():
            self.writer.add_scalar(name, value, step)

    def send_image(self, name: str, image: Image.Image, step: int, caption: str = "") -> None:
        assert self.writer is not None
        self.writer.add_image(name, np.asarray(image.convert("RGB")), step, dataformats="HWC")
        self.writer.flush()

    def close(self) -> None:
        """Write pending events."""
        try:
            if self.writer is not None:
                self.writer.close()
        except Exception as error:
            if not self.broken:
                self.give_up(error)

    def _write_settings(self, writer: SummaryWriter, settings: Mapping[str, Any], metrics: tuple[str, ...]) -> None:
        from torch.utils.tensorboard.summary import hparams

        text = yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True)
        with atomic_write(self.folder / "hparams.yaml") as partial:
            partial.write_text(text, encoding="utf-8")
        writer.add_text("settings", "\n".join(f"    {line}" for line in text.splitlines()), 0)
        flat = {
            key: value if isinstance(value, bool | int | float | str) else str(value)
            for key, value in leaves(settings).items()
        }
        for summary in hparams(flat, dict.fromkeys(metrics, 0.0)):
            assert writer.file_writer is not None
            writer.file_writer.add_summary(summary)
