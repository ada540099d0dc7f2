"""Compute dtype of a network; its weights stay float32."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from typing import Any

import torch

DTYPES: dict[str | int, torch.dtype] = {32: torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Values of settings named ``precision``, besides ``auto``."""

CPU_BFLOAT16 = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")
"""CPU instructions for bfloat16, by torch's names; without them it is emulated, slower than float32."""


def resolve_precision(precision: str | int, device: torch.device, key: str) -> torch.dtype:
    """Return the dtype of a precision setting on a device.

    ``auto`` is bfloat16 if the device supports it in hardware, else float16 on a CUDA device, else float32.

    Raises:
        ValueError: float16 on a CPU, where gradient scaling is not supported.
    """
    if precision == "auto":
        if has_bfloat16(device):
            return torch.bfloat16
        return torch.float16 if device.type == "cuda" else torch.float32
    if precision == "fp16" and device.type == "cpu":
        raise ValueError(f"{key} must be auto, 32 or bf16 on a CPU, got fp16")
    return DTYPES[precision]


def precision_of(dtype: torch.dtype) -> str | int:
    """Return what a setting named ``precision`` calls a type."""
    return next(name for name, known in DTYPES.items() if known == dtype)


def has_bfloat16(device: torch.device) -> bool:
    """Return whether the device supports bfloat16 in hardware, not by emulation."""
    if device.type == "cuda":
        # The query applies to the current GPU.
        with contextlib.nullcontext() if device.index is None else torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and torch.backends.mkldnn.is_available() is True and _cpu_has_bfloat16()


def computing_in(dtype: torch.dtype, device: torch.device) -> AbstractContextManager[Any]:
    """Return an autocast context for ``dtype``; float32 changes nothing."""
    if dtype == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype)


def _cpu_has_bfloat16() -> bool:
    if hasattr(torch.cpu, "get_capabilities"):  # newer versions of torch
        known = torch.cpu.get_capabilities()
        return any(known.get(name, False) for name in CPU_BFLOAT16)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
