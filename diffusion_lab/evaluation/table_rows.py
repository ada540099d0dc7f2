"""Rows of a measurement, as shown in tables and plots."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from diffusion_lab.console.terminal import on_one_line

Better = Literal["lower", "higher"]


@dataclass(frozen=True)
class Row:
    """Value of a measurement.

    Attributes:
        key: Name of the metric without features: ``fd``, ``precision``.
        name: Full name: ``fd_efflite0@96``.
        value: Value of the metric.
        low: Lower end of its 95 % confidence interval; None if there is none.
        high: Upper end.
        null: Value for real images against real images; None if there are too few.
        null_n: Number of images in the null row: the number of samples, or fewer if there are not enough.
        matched: Value for as many samples as those real images, against a reference as large as theirs; None if
            ``value`` itself is comparable with ``null``.
        better: Whether lower or higher values are better; None if the value must not be ranked.
    """

    key: str
    name: str
    value: float
    low: float | None = None
    high: float | None = None
    null: float | None = None
    null_n: int | None = None
    matched: float | None = None
    better: Better | None = None


def format_number(value: float | None) -> str:
    """Return a number with three significant digits; an empty string for None.

    >>> [format_number(value) for value in (0.00123456, 0.5, 12.345, 407.8, 1234.5, 0.0, None)]
    ['0.00123', '0.500', '12.3', '408', '1234', '0', '']
    """
    if value is None:
        return ""
    size = abs(value)
    if size >= 100:
        return f"{value:.0f}"
    if 0 < size < 1e-4:
        return f"{value:.1e}"
    decimals = 1 if size >= 10 else 2 if size >= 1 else 3 if size >= 0.1 else 4 if size >= 0.01 else 5
    return f"{value:.{decimals}f}" if size else "0"


def describe_setting(value: object) -> str:
    """Return the value of a setting in readable form.

    >>> [describe_setting(value) for value in (True, 2.0, None, "a")]
    ['true', '2', 'none', 'a']
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    return "none" if value is None else on_one_line(Path(value).name if isinstance(value, Path) else value)


def describe_key(key: str) -> str:
    """Return the last part of a dotted key in readable form.

    >>> describe_key("generation.sampling.guidance_scale")
    'guidance'
    """
    return key.rpartition(".")[2].removesuffix("_scale").replace("_", " ")
