"""Arguments of the Python API: their checks, and errors that name them where the settings have other names."""

from __future__ import annotations

import contextlib
import math
import numbers
import re
import reprlib
from collections.abc import Iterator, Mapping

from diffusion_lab.faults import ConfigError


def check_integer(name: str, value: object, least: int) -> None:
    """Raise ValueError unless an argument is an integer of at least ``least``; a bool is none."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise ValueError(f"{name} must be an integer of at least {least}, got {reprlib.repr(value)}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")


def check_flag(name: str, value: object) -> None:
    """Raise ValueError unless an argument is True or False: a string such as ``"false"`` would count as true."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False, got {reprlib.repr(value)}")


def is_number(value: object) -> bool:
    """Return whether a value is a finite real number, and not a bool."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)


@contextlib.contextmanager
def arguments_named(names: Mapping[str, str]) -> Iterator[None]:
    """Name arguments in ValueErrors about settings: for functions whose arguments fill the keys of settings.

    Args:
        names: Name of the argument by the dotted key that it fills.
    """
    try:
        yield
    except ConfigError as error:
        raise error.of_arguments(lambda text: name_arguments(text, names)) from error.__cause__
    except ValueError as error:
        error.args = tuple(name_arguments(part, names) if isinstance(part, str) else part for part in error.args)
        raise


def name_arguments(text: str, names: Mapping[str, str]) -> str:
    """Return a message with dotted keys replaced by the arguments that fill them.

    >>> name_arguments("model.diffusion.beta_end = 2: see model.diffusion", {"model.diffusion.beta_end": "beta_end"})
    'beta_end = 2: see model.diffusion'
    """
    longest_first = sorted(names, key=len, reverse=True)
    keys = re.compile(rf"(?<![\w.])(?:{'|'.join(map(re.escape, longest_first))})(?!\w|\.\w)")
    return keys.sub(lambda match: names[match[0]], text)
