"""The rows of a measurement, as tables and plots show them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from diffusion_lab.console.terminal import on_one_line

Better = Literal["lower", "higher"]


@dataclass(frozen=True)
class Row:
    """One number of a measurement.

    Attributes:
        key: Name of the metric without features: ``fd``, ``precision``.
        name: Full name: ``fd_efflite0@96``.
        value: The number.
        low: Lower end of its 95 % confidence interval; None where there is none.
        high: Upper end.
        null: The same number of real images against real images; None where there are too few.
        null_n: How many images the null row has; the number of samples, or fewer where there are not as many.
        matched: The number of samples as many as those real images, against a reference as large as theirs; None where
            ``value`` itself compares with ``null``.
        better: Which is better, of two that may be compared; None where neither is.
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
    """Return a number with three significant figures, as people write it; empty for None.

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
    """Return the value of a setting, as people write it.

    >>> [describe_setting(value) for value in (True, 2.0, None, "a")]
    ['true', '2', 'none', 'a']
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    return "none" if value is None else on_one_line(Path(value).name if isinstance(value, Path) else value)


def describe_key(key: str) -> str:
    """Return the last part of a dotted key, as tables name it.

    >>> describe_key("generation.sampling.guidance_scale")
    'guidance'
    """
    return key.rpartition(".")[2].removesuffix("_scale").replace("_", " ")
