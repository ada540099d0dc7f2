"""Instructions of the CPU that torch and oneDNN really use: read off the kernels that oneDNN chooses."""

from __future__ import annotations

import ctypes
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from diffusion_lab.doctor.findings import Finding, advice, fact, ok, set_variables

VARIABLES = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY", "ONEDNN_DEFAULT_FPMATH_MODE")
"""Environment variables that keep libraries from using instructions that the CPU has, or change how they round."""

HARDWARE_BFLOAT16 = ("bf16", "amx", "sve", "acl", "avx10_2")
"""Parts of the names of kernels that compute in bfloat16 without emulating it."""


@dataclass(frozen=True)
class Instructions:
    """Instructions of the CPU, and those in use.

    Args:
        own: Those that the CPU has, by torch's names, such as ``avx512_f``; empty if torch does not say.
        torch: What torch's own kernels use, such as ``AVX512``.
        onednn: oneDNN's description of what it uses; None if this torch is built without it.
        kernels: oneDNN's kernels of a convolution and its gradient by dtype: ``f32``, ``bf16``.
        variables: Environment variables that restrict them, as ``NAME=value``.
    """

    own: frozenset[str]
    torch: str
    onednn: str | None
    kernels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    variables: tuple[str, ...] = ()


def read_instructions() -> Instructions:
    """Run a small convolution in float32 and bfloat16, and read which kernels oneDNN uses."""
    import torch

    known = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    own = frozenset(name for name, value in known.items() if value is True)
    log = output_of(_convolve) if torch.backends.mkldnn.is_available() else ""
    return Instructions(
        own=own,
        torch=torch.backends.cpu.get_cpu_capability(),
        onednn=isa_of(log),
        kernels=kernels_of(log),
        variables=tuple(set_variables(VARIABLES)),
    )


def instruction_findings(found: Instructions) -> Iterator[Finding]:
    """Yield findings about vector instructions, bfloat16 and AMX."""
    if found.onednn is None:
        yield advice("instructions", f"torch uses {found.torch}, and no oneDNN: convolutions are slow")
    else:
        text = f"{found.torch} in torch; in oneDNN {found.onednn}"
        unused = "avx512_f" in found.own and "AVX-512" not in found.onednn and "AVX10" not in found.onednn
        if unused or (found.torch in ("AVX2", "DEFAULT") and "avx512_f" in found.own):
            yield advice("instructions", f"{text}: the AVX-512 of this CPU is not used", *_unset(found))
        else:
            yield ok("instructions", text)
    yield _bfloat16(found)
    if "amx_tile" in found.own:
        if any("amx" in kernel for kernels in found.kernels.values() for kernel in kernels):
            yield ok("AMX", "used for bfloat16")
        else:
            yield advice("AMX", "this CPU has it, but oneDNN does not use it", *_unset(found))
    for variable in found.variables:
        yield fact("variable", variable)


def _bfloat16(found: Instructions) -> Finding:
    kernels = found.kernels.get("bf16", ())
    if kernels and all(any(part in kernel for part in HARDWARE_BFLOAT16) for kernel in kernels):
        return ok("bfloat16", f"in hardware ({', '.join(kernels)})")
    if found.own & {"avx512_bf16", "amx_bf16", "bf16", "sve_bf16"}:
        return advice(
            "bfloat16", "this CPU has it, but oneDNN does not use it, so use_amp=true is slower here", *_unset(found)
        )
    return fact("bfloat16", "not in this CPU: with use_amp=true, training stays in float32")


def _unset(found: Instructions) -> list[str]:
    names = [variable.partition("=")[0] for variable in found.variables]
    return [f"unset {' '.join(names)}"] if names else []


def isa_of(log: str) -> str | None:
    """Return oneDNN's description of the instructions that it uses, from its verbose log."""
    found = re.search(r",cpu,isa:(.+)", log)
    return found[1].strip() if found else None


def kernels_of(log: str) -> dict[str, tuple[str, ...]]:
    """Return the kernels of convolutions by the dtype of their images, each once, from oneDNN's verbose log."""
    kernels: dict[str, dict[str, None]] = {}
    for line in log.splitlines():
        found = re.search(r",exec,cpu,convolution,([^,]+),[^,]+,src:([^:]+):", line)
        if found:
            kernels.setdefault(found[2], {})[found[1].rpartition(":")[2]] = None
    return {dtype: tuple(names) for dtype, names in kernels.items()}


def output_of(work: Callable[[], object]) -> str:
    """Return what ``work`` and the C libraries that it calls write to standard output."""
    library = ctypes.CDLL(None)
    library.fflush(None)
    before = os.dup(1)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 1)
        try:
            work()
            library.fflush(None)
        finally:
            os.dup2(before, 1)
            os.close(before)
        file.seek(0)
        return file.read().decode(errors="replace")


def _convolve() -> None:
    import torch

    verbose = torch.backends.mkldnn.verbose
    with verbose(torch.backends.mkldnn.VERBOSE_ON):  # type: ignore[no-untyped-call]
        for dtype in (torch.float32, torch.bfloat16):
            layer = torch.nn.Conv2d(32, 32, 3, padding=1).to(dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            images = torch.randn(2, 32, 16, 16, dtype=dtype).to(memory_format=torch.channels_last)
            layer(images).sum().backward()
