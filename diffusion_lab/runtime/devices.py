"""Devices by name, host memory, and the number of CPU threads."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator

import torch


def resolve_device(name: str | torch.device, key: str = "compute.device") -> torch.device:
    """Return the device with a name, if this machine has it.

    Args:
        name: ``auto`` (the best available), ``cpu``, ``cuda``, ``mps`` or another backend of torch; ``cuda:1`` is the
            second GPU; case-insensitive. A ``torch.device`` is checked as well.
        key: Setting or argument that it comes from, for messages.

    Raises:
        ValueError: This machine does not have the device, or it is not a device.
    """
    if isinstance(name, str):
        name = name.lower()
    if name == "auto":
        return torch.device(_available_devices()[0].partition(":")[0])
    device = _parse(name)
    if device is None or not _is_available(device):
        available = ", ".join(_available_devices())
        got = repr(str(name) if isinstance(name, torch.device) else name)
        raise ValueError(f"{key} must be a device of this machine ({available}, or auto), got {got}")
    return device if device.type not in SINGLE_DEVICES else torch.device(device.type)


def device_name(device: torch.device) -> str | None:
    """Return the name of a GPU, such as ``NVIDIA H200``; None for other devices."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else None


SINGLE_DEVICES = ("cpu", "mps")
"""Kinds of which a machine has at most one device, so that ``cpu:0`` is ``cpu``."""


def _parse(name: object) -> torch.device | None:
    """Return the device with a name; None if torch does not know it."""
    if not isinstance(name, str | torch.device):
        return None
    try:
        return torch.device(name)
    except RuntimeError:
        return None


def _is_available(device: torch.device) -> bool:
    return device.type == "meta" or (device.index or 0) < _count(device.type)


def _count(kind: str) -> int:
    """Return the number of devices of a kind on this machine."""
    if kind == "cpu":
        return 1
    if kind == "mps":
        return int(torch.backends.mps.is_available())
    if kind == "cuda":
        return max(torch.cuda.device_count(), 1) if torch.cuda.is_available() else 0
    try:  # other accelerators that torch supports, such as xpu
        module = torch.get_device_module(kind)
        return module.device_count() if module.is_available() else 0
    except (RuntimeError, AttributeError):
        return 0


def _available_devices() -> list[str]:
    """Return the names of this machine's devices, the best first; several of a kind are numbered."""
    counts = {kind: _count(kind) for kind in ("cuda", "mps", "cpu")}
    return [f"{kind}:{index}" if count > 1 else kind for kind, count in counts.items() for index in range(count)]


def host_memory() -> float:
    """Return the memory of this machine in bytes; infinity if unknown."""
    try:
        page, pages = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError):  # Windows; a system that does not know the names
        return math.inf
    return page * pages if min(page, pages) > 0 else math.inf  # -1 means unknown


@contextlib.contextmanager
def use_threads(threads: int) -> Iterator[None]:
    """Set torch's number of threads inside the block, and restore it afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
