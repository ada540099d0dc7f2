"""W&B logger: mirrors metrics, images and files of a training run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console

from diffusion_lab.tracking.axes import IMAGES, STEP, Derived
from diffusion_lab.tracking.wandb_run import Artifact, finish_run, incomplete_upload, wandb_library
from diffusion_lab.training.mirror import Mirror, warn


class WandbMirror(Mirror):
    """Sends metrics, images and files to W&B.

    Args:
        run: The run on W&B.
        console: Console for warnings.
        derived: Adds throughput and values of real images.
        delivered_step: W&B already has the metrics of optimizer steps up to this one; they are not sent again.
    """

    def __init__(self, run: Any, console: Console, derived: Derived | None = None, delivered_step: int = -1) -> None:
        super().__init__("W&B", console)
        self.run = run
        self.derived = derived or Derived()
        self.delivered_step = delivered_step
        self.last_step = -1
        self.artifacts: list[Artifact] = []
        self._defined: set[str] = set()

    @property
    def version(self) -> str:
        return str(self.run.id)

    @property
    def folder(self) -> Path:
        """Folder of the files that W&B keeps of this run."""
        return Path(self.run.settings.sync_dir)

    def send_metrics(self, metrics: Mapping[str, Any], step: int) -> None:
        self._send(self.derived.add(metrics, step), step)

    def replay(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Send lines of ``metrics.jsonl`` that a killed run had not sent."""
        for line in lines:
            metrics = {key: value for key, value in line.items() if key not in ("step", "seconds")}
            self.attempt(self._send, self.derived.add(metrics, line["step"], line["seconds"]), line["step"])
        self.derived.pause()

    def send_image(self, name: str, image: Image.Image, step: int, caption: str = "") -> None:
        self._send({name: [self._picture(image, caption)]}, step)

    def send_images(self, name: str, images: Sequence[tuple[Image.Image, str]], step: int) -> None:
        self._send({name: [self._picture(image, caption) for image, caption in images]}, step)

    def send_facts(self, facts: Mapping[str, Any]) -> None:
        self.run.summary.update(dict(facts))

    def send_alert(self, title: str, text: str) -> None:
        self.run.alert(title, text, level="ERROR")

    def send_file(self, artifact: Artifact) -> None:
        self.artifacts.append(artifact)

    def finish(self, failed: bool, seconds: float, interrupted: Callable[[], bool]) -> bool:
        """Finish the run on W&B, waiting for the upload within a time limit.

        Args:
            failed: Whether W&B marks the run as failed.
            seconds: Longest wait.
            interrupted: Polled several times per second: returns whether to stop waiting.

        Returns:
            Whether W&B has everything.
        """

        def announce() -> None:
            text = f"training is done and saved; waiting up to {seconds:.0f} s for W&B (Ctrl-C ends the wait)"
            self.console.print(text, highlight=False, markup=False, soft_wrap=True)

        reason = finish_run(self.run, failed, seconds, interrupted, announce, self.artifacts)
        if reason is not None and not self.broken:
            warn(self.console, incomplete_upload(self.run, reason))
        return reason is None and not self.broken

    def _send(self, values: Mapping[str, Any], step: int) -> None:
        if step <= self.delivered_step:
            return
        axes = {STEP: step}
        if self.derived.images is not None:
            axes[IMAGES] = self.derived.images.after(step)
        axis = IMAGES if IMAGES in axes else STEP  # the other one can be selected on W&B
        for name in values:
            if name not in self._defined:  # not by a pattern: which of several that match applies is not defined
                self._defined.add(name)
                self.run.define_metric(name, step_metric=axis)
        self.run.log({**values, **axes})
        self.last_step = max(step, self.last_step)

    def _picture(self, image: Image.Image, caption: str) -> Any:
        return wandb_library().Image(image, caption=caption or None)
