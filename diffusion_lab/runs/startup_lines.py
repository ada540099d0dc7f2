"""Lines that a command prints at its start: facts about the model and the machine."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from diffusion_lab.config.model_section import DiffusionSettings

WIDTH = 12
"""Width of the column of names."""


def aligned(rows: Mapping[str, str | None]) -> str:
    """Format facts in aligned lines, with their names before them; None is skipped.

    >>> print(aligned({"images": "24", "seed": None, "model": "one\\ntwo"}))
    images      24
    model       one
                two
    """
    indent = "\n" + " " * WIDTH
    return "\n".join(f"{name:<{WIDTH}}{text.replace(chr(10), indent)}" for name, text in rows.items() if text)


def describe_images(count: int, shape: tuple[int, int, int], num_classes: int | None) -> str:
    """Describe number, size, channels and classes of images ``(C, H, W)``.

    >>> describe_images(1293, (1, 8, 8), 10)
    '1,293 of 8×8 pixels, 1 channel, 10 classes'
    """
    channels, height, width = shape
    classes = "no classes" if num_classes is None else pluralize(num_classes, "class", "classes")
    return f"{count:,} of {width}×{height} pixels, {pluralize(channels, 'channel')}, {classes}"


def describe_process(diffusion: DiffusionSettings, most_steps: int | None) -> str:
    """Describe the noise process, its timesteps and the prediction; ``most_steps`` is None in continuous time."""
    name = diffusion.beta_schedule if diffusion.type == "discrete" else diffusion.type
    times = "continuous time" if most_steps is None else pluralize(most_steps, "timestep")
    return f"{name}, {times}, predicts {diffusion.prediction}"


def describe_compute(device: torch.device, threads: int, dtype: torch.dtype, seed: int, drawn: bool) -> str:
    """Describe device, precision and seed; ``drawn`` if the user did not choose the seed."""
    where = f"cpu ({pluralize(threads, 'thread')})" if device.type == "cpu" else str(device)
    return f"{where}, {str(dtype).removeprefix('torch.')}, seed {seed}{' (drawn)' if drawn else ''}"


def pluralize(number: int, one: str, many: str | None = None) -> str:
    """Return a number with its noun.

    >>> pluralize(1, "class", "classes"), pluralize(2000, "step")
    ('1 class', '2,000 steps')
    """
    return f"{number:,} {one if number == 1 else many or one + 's'}"
