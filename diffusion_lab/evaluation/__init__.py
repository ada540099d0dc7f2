"""How good images are: metrics with intervals and null rows, for checkpoints, folders and tensors of features."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from diffusion_lab.evaluation.measure import measure
from diffusion_lab.evaluation.measurement import Measurement, reasons_not_comparable
from diffusion_lab.evaluation.real_images import RealImages

if TYPE_CHECKING:
    from diffusion_lab.evaluation.api import evaluate_checkpoint, evaluate_folders
    from diffusion_lab.evaluation.result import Result

__all__ = [
    "Measurement",
    "RealImages",
    "Result",
    "evaluate_checkpoint",
    "evaluate_folders",
    "measure",
    "reasons_not_comparable",
]

_HOME_OF = {"Result": "result", "evaluate_checkpoint": "api", "evaluate_folders": "api"}
"""Modules that are imported when they are first used: they load what samples, too."""


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value  # the next look-up does not come through here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
