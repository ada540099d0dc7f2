"""diffusion_lab: an experiment framework for image diffusion models.

`import diffusion_lab` is cheap: it does not import torch. The names in `__all__` are imported from their modules
on first use, so `--help` and the configuration never wait for libraries that they do not need.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from diffusion_lab.console import messages
from diffusion_lab.runtime import threads
from diffusion_lab.version import __version__

if TYPE_CHECKING:
    from diffusion_lab.checkpoint import load_denoiser
    from diffusion_lab.create import create_ddpm
    from diffusion_lab.ema import EMA
    from diffusion_lab.sampling import DiffusionSampler

__all__ = ["EMA", "DiffusionSampler", "__version__", "create_ddpm", "load_denoiser"]

_MODULE_OF = {
    "DiffusionSampler": "diffusion_lab.sampling",
    "EMA": "diffusion_lab.ema",
    "create_ddpm": "diffusion_lab.create",
    "load_denoiser": "diffusion_lab.checkpoint",
}

threads.bound_spinning()
messages.format_own_warnings()


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(_MODULE_OF[name]), name)
    globals()[name] = value  # the next lookup bypasses this function
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
