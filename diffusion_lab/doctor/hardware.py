"""CPU, cores that this process may use, and memory."""

from __future__ import annotations

import math
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from diffusion_lab.doctor.findings import Finding, advice, fact, ok, set_variables, size
from diffusion_lab.runtime.control_groups import read_limits
from diffusion_lab.runtime.threads import free_cores, usable_cores

LITTLE_MEMORY = 2e9
BUSY = 0.4
"""Cores used by other programs from which on training is noticeably slower."""

VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_CPU_AFFINITY", "KMP_AFFINITY")


@dataclass(frozen=True)
class Hardware:
    """Facts about the machine.

    Args:
        cpu: Name of the CPU.
        architecture: Such as ``x86_64``.
        cores: Cores of the machine.
        allowed: Cores that the affinity of the process allows.
        quota: Cores that its control groups allow; None: no limit.
        used: Cores that the programs of this project use.
        free: How many of those other programs leave free.
        memory: Memory of the machine in bytes; infinity if unknown.
        available: Bytes that are not in use; None if unknown.
        memory_limit: Bytes that the control groups allow; None: no limit.
        variables: Environment variables about threads that are set, as ``NAME=value``.
    """

    cpu: str
    architecture: str
    cores: int
    allowed: int
    quota: float | None
    used: int
    free: float
    memory: float
    available: int | None
    memory_limit: int | None
    variables: tuple[str, ...] = ()


def read_hardware() -> Hardware:
    """Examine this machine."""
    limits = read_limits()
    cores = os.cpu_count() or 1
    # without GOMP_SPINCOUNT, which the project sets itself
    return Hardware(
        cpu=_cpu_name(),
        architecture=platform.machine(),
        cores=cores,
        allowed=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores,
        quota=limits.cores,
        used=usable_cores(),
        free=free_cores(),
        memory=_memory("MemTotal") or _host_memory(),
        available=_memory("MemAvailable"),
        memory_limit=limits.memory,
        variables=tuple(set_variables(VARIABLES)),
    )


def hardware_findings(found: Hardware) -> Iterator[Finding]:
    """Yield findings about CPU, cores and memory."""
    yield fact("CPU", f"{found.cpu} ({found.architecture})")
    yield _cores(found)
    busy = found.used - found.free
    if busy >= BUSY:
        yield advice(
            "load",
            f"other programs use {busy:.1f} of {found.used} {_cores_word(found.used)}: a run that starts now is slower "
            "and uses fewer threads",
        )
    yield _memory_finding(found)
    for variable in found.variables:
        yield fact("variable", variable)


def _cores(found: Hardware) -> Finding:
    limits = []
    if found.allowed < found.cores:
        limits.append(f"the affinity of this process allows {found.allowed}")
    if found.quota is not None and found.quota < found.cores:
        limits.append(f"its control group {found.quota:.3g}")
    text = f"{found.used} usable, of {found.cores}" + (f": {', '.join(limits)}" if limits else "")
    best = max(1, round(min(found.allowed, found.quota or math.inf)))
    if best < found.used:
        text += f"; start training with compute.threads={best}, since more threads would wait for each other"
        return advice("cores", text)
    return ok("cores", text)


def _memory_finding(found: Hardware) -> Finding:
    if math.isinf(found.memory):
        return fact("memory", "unknown")
    limited = found.memory_limit is not None and found.memory_limit < found.memory
    text = size(found.memory)
    if found.available is not None:
        text += f", {size(found.available)} of it free"
    if limited:
        text += f"; the control group allows {size(found.memory_limit or 0)}"
    usable = min(found.memory, found.available or math.inf, found.memory_limit or math.inf)
    if usable < LITTLE_MEMORY:
        return advice("memory", f"{text}: little for training; a smaller data.loading.batch_size needs less")
    return ok("memory", text)


def _cores_word(number: int) -> str:
    return "core" if number == 1 else "cores"


def _cpu_name() -> str:
    if sys.platform == "darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True, timeout=5).stdout.strip() or "unknown"
    try:
        lines = [line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines()]
    except OSError:
        lines = []
    by_name = {name.strip(): value.strip() for name, _, value in lines}
    return by_name.get("model name") or by_name.get("Model") or platform.processor() or "unknown"


def _host_memory() -> float:
    from diffusion_lab.runtime.devices import host_memory  # imports torch

    return host_memory()


def _memory(name: str) -> int | None:
    """Return an amount of memory as Linux names it, in bytes; None if unknown."""
    try:
        text = Path("/proc/meminfo").read_text()
    except OSError:
        return None
    words = text.partition(f"{name}:")[2].split()
    return int(words[0]) * 2**10 if words else None
