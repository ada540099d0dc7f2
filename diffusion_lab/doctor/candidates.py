"""Settings of ``training.performance`` to compare: the files of ``conf/performance``, and the default with changes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from diffusion_lab.config.training_section import PerformanceSettings
from diffusion_lab.config.validate import parse_section
from diffusion_lab.console.command_line import CONF

if TYPE_CHECKING:
    import torch

GROUP, DEFAULT = "performance", "default"
SECTION = "training.performance"

FASTER = ("use_amp", "compile_model")
"""Settings that can be faster; ``gradient_checkpointing`` only saves memory."""


@dataclass(frozen=True)
class Candidate:
    """A choice on the command line of ``train.py``, and the settings that it results in.

    Args:
        file: File of ``conf/performance``.
        settings: The resulting settings.
        changes: Settings that differ from those of the file.
    """

    file: str
    settings: PerformanceSettings
    changes: tuple[tuple[str, bool], ...] = ()

    @property
    def arguments(self) -> str:
        """The arguments of ``train.py``."""
        return " ".join([f"{GROUP}={self.file}", *(f"{SECTION}.{name}={str(on).lower()}" for name, on in self.changes)])

    @property
    def name(self) -> str:
        """A short name: the file, or what differs from the default."""
        return " ".join(f"{name}={str(on).lower()}" for name, on in self.changes) or self.file


@dataclass(frozen=True)
class Effect:
    """What settings do on a device; candidates of equal effect are equally fast."""

    dtype: torch.dtype
    tf32: bool
    kernel_search: bool
    compiled: bool


def all_candidates(conf: Path = CONF) -> list[Candidate]:
    """Return the candidates, the simplest first: the default, the other files, then the default with changes."""
    files = sorted((conf / GROUP).glob("*.yaml"), key=lambda file: (file.stem != DEFAULT, file.stem))
    candidates = [Candidate(file.stem, _settings(yaml.safe_load(file.read_text(encoding="utf-8")))) for file in files]
    default = candidates[0]
    values = default.settings.model_dump()
    for chosen in product((False, True), repeat=len(FASTER)):
        changes = tuple((name, on) for name, on in zip(FASTER, chosen, strict=True) if on != values[name])
        if changes:
            candidates.append(Candidate(default.file, _settings({**values, **dict(changes)}), changes))
    return candidates


def _settings(values: dict[str, Any]) -> PerformanceSettings:
    return parse_section(PerformanceSettings, values, SECTION)


def effect_of(settings: PerformanceSettings, device: torch.device) -> Effect:
    """Return what settings do on a device.

    Raises:
        ValueError: The device does not support the precision.
    """
    from diffusion_lab.runtime.precision import resolve_precision

    dtype = resolve_precision(settings.requested_precision, device, f"{SECTION}.precision")
    cuda = device.type == "cuda"
    return Effect(dtype, settings.use_tf32 and cuda, settings.cudnn_benchmark and cuda, settings.compile_model)


def distinct(candidates: Iterable[Candidate], device: torch.device) -> dict[Effect, list[Candidate]]:
    """Return the candidates by their effect on a device, in their order."""
    by_effect: dict[Effect, list[Candidate]] = {}
    for candidate in candidates:
        by_effect.setdefault(effect_of(candidate.settings, device), []).append(candidate)
    return by_effect
