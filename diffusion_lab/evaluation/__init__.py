"""Evaluation of image quality: metrics with intervals and null rows, for checkpoints, folders and feature tensors."""

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

_LAZY_MODULES = {"Result": "result", "evaluate_checkpoint": "api", "evaluate_folders": "api"}
"""Modules imported on first use, because they also import the code for sampling, by the names they define."""


def __getattr__(name: str) -> object:
    if name not in _LAZY_MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"{__name__}.{_LAZY_MODULES[name]}"), name)
    globals()[name] = value  # later look-ups bypass this function
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
