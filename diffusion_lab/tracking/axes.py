"""What dashboards show beyond the logged metrics: images seen as an axis, throughput, values of real images."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from diffusion_lab.metric_names import THROUGHPUT

STEP = "trainer/global_step"
"""Optimizer steps done before, as in ``metrics.jsonl``."""

IMAGES = "trainer/images_seen"
"""Training images that the steps so far have used."""


@dataclass(frozen=True)
class ImagesSeen:
    """Number of training images that were used up to a step.

    Args:
        epoch_images: Images of an epoch.
        step_images: Images of an optimizer step; the last step of an epoch may have fewer.
        done_steps: Steps that were done with another batch size, before the run was resumed.
        done_images: Images of these steps.
    """

    epoch_images: int
    step_images: int
    done_steps: int = 0
    done_images: int = 0

    def after(self, step: int) -> int:
        """Return the images used after a step, which is counted from 0.

        >>> ImagesSeen(10, 4).after(0), ImagesSeen(10, 4).after(2), ImagesSeen(10, 4).after(3)
        (4, 10, 14)
        """
        steps = step + 1 - self.done_steps
        if steps <= 0:
            return self.done_images * (step + 1) // self.done_steps
        position = self.done_images % self.epoch_images
        rest_of_epoch = self.epoch_images - position
        first = -(-rest_of_epoch // self.step_images)
        if steps <= first:
            return self.done_images + min(steps * self.step_images, rest_of_epoch)
        epochs, further = divmod(steps - first, -(-self.epoch_images // self.step_images))
        part = min(further * self.step_images, self.epoch_images)
        return self.done_images + rest_of_epoch + epochs * self.epoch_images + part


@dataclass
class Derived:
    """Adds derived values to logged metrics; one object for each dashboard, since it remembers the last step.

    Args:
        images: Counts the images seen; None if unknown, then there is neither that axis nor throughput.
        nulls: Values of real images in place of samples, by the name of the metric.
    """

    images: ImagesSeen | None = None
    nulls: Mapping[str, float] = field(default_factory=dict)
    _last: tuple[int, float] | None = None  # step and seconds at which the loss was logged last

    def add(self, metrics: Mapping[str, Any], step: int, seconds: float | None = None) -> dict[str, Any]:
        """Return the metrics of a step with throughput, and next to a quality its value for real images.

        The pauses between epochs, for validation and samples, are no part of the throughput.

        Args:
            metrics: The logged metrics.
            step: Their step.
            seconds: Time at which they were logged; None for now.
        """
        nulls = {null_name(name): self.nulls[name] for name in metrics if name in self.nulls}
        result = {**metrics, **nulls}
        if "train/loss" not in metrics:
            self._last = None
        elif self.images is not None:
            now = time.monotonic() if seconds is None else seconds
            before, self._last = self._last, (step, now)
            if before is not None and step > before[0] and now > before[1] and THROUGHPUT not in metrics:
                seen = self.images.after(step) - self.images.after(before[0])
                result[THROUGHPUT] = seen / (now - before[1])
        return result

    def pause(self) -> None:
        """Start over: the time until the next step does not count."""
        self._last = None


def null_name(name: str) -> str:
    """Return the name of the value that real images have in place of samples.

    >>> null_name("val/kid_digits")
    'null/kid_digits'
    """
    return f"null/{name.removeprefix('val/')}"
