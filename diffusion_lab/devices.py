"""The device that a setting means, and the threads that compute on a CPU."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator

import torch


def resolve_device(name: str | torch.device, key: str = "compute.device") -> torch.device:
    """Turn the name of a device into a device that this machine has.

    Args:
        name: ``auto`` (the best there is), ``cpu``, ``cuda``, ``mps`` or another backend of torch; ``cuda:1`` is the
            second GPU; in any case. A ``torch.device`` is checked as well.
        key: The setting or argument that it comes from, for the message.

    Raises:
        ValueError: The device is not on this machine, or it is no device at all.
    """
    if isinstance(name, str):
        name = name.lower()
    if name == "auto":
        return torch.device(_names_of_devices()[0].partition(":")[0])
    device = _parsed(name)
    if device is None or not _is_there(device):
        there = ", ".join(_names_of_devices())
        given = repr(str(name) if isinstance(name, torch.device) else name)
        raise ValueError(f"{key} must be a device of this machine ({there}, or auto), got {given}")
    return device if device.type not in ONE_OF_A_KIND else torch.device(device.type)


ONE_OF_A_KIND = ("cpu", "mps")
"""Devices of which a machine has one at most, so that ``cpu:0`` is ``cpu``."""


def _parsed(name: object) -> torch.device | None:
    """The device that is meant; None where torch knows none of that name."""
    if not isinstance(name, str | torch.device):
        return None
    try:
        return torch.device(name)
    except RuntimeError:
        return None


def _is_there(device: torch.device) -> bool:
    return device.type == "meta" or (device.index or 0) < _count(device.type)


def _count(kind: str) -> int:
    """How many devices of a kind this machine has."""
    if kind == "cpu":
        return 1
    if kind == "mps":
        return int(torch.backends.mps.is_available())
    if kind == "cuda":
        return max(torch.cuda.device_count(), 1) if torch.cuda.is_available() else 0
    try:  # of the other accelerators that torch knows, such as xpu
        module = torch.get_device_module(kind)
        return module.device_count() if module.is_available() else 0
    except (RuntimeError, AttributeError):
        return 0


def _names_of_devices() -> list[str]:
    """The devices of this machine, the best first; several of a kind are numbered."""
    counts = {kind: _count(kind) for kind in ("cuda", "mps", "cpu")}
    return [f"{kind}:{index}" if count > 1 else kind for kind, count in counts.items() for index in range(count)]


def host_memory() -> float:
    """Return the memory of this machine in bytes; infinity where the system does not tell."""
    try:
        page, pages = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError):  # Windows; a system that does not know the names
        return math.inf
    return page * pages if min(page, pages) > 0 else math.inf  # -1 is: not told


@contextlib.contextmanager
def computing_with(threads: int) -> Iterator[None]:
    """Let torch compute with so many threads; with as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
