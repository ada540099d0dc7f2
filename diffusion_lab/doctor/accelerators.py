"""GPUs and other accelerators, and whether torch can use them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from diffusion_lab.console.command_line import interpreter
from diffusion_lab.doctor.findings import Finding, advice, fact, ok, set_variables, size

NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")
VARIABLES = ("CUDA_VISIBLE_DEVICES", "NVIDIA_TF32_OVERRIDE", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ENABLE_MPS_FALLBACK")

TF32 = (8, 0)
"""Compute capability from which on GPUs have TF32."""


@dataclass(frozen=True)
class Gpu:
    """A CUDA device.

    Args:
        name: Its name.
        memory: Bytes.
        capability: Compute capability, such as (9, 0).
        bfloat16: Whether it computes in bfloat16 in hardware.
    """

    name: str
    memory: int
    capability: tuple[int, int]
    bfloat16: bool


@dataclass(frozen=True)
class Accelerators:
    """Facts about accelerators.

    Args:
        torch: Version of torch with its build, such as ``2.13.0+cpu``.
        torchvision: Version of torchvision without its build; None if it is not installed.
        cuda: Version of CUDA, or of ROCm, that torch is built for; None: for none.
        gpus: The CUDA devices that torch can use.
        driver: Whether there is an NVIDIA driver.
        complaint: What torch says about the driver or the devices; empty: nothing.
        hidden: Whether CUDA_VISIBLE_DEVICES is set, which can hide devices.
        mps: Whether there is an Apple GPU that torch can use; None: not on this system.
        variables: Environment variables that are set, as ``NAME=value``.
    """

    torch: str
    torchvision: str | None
    cuda: str | None
    gpus: tuple[Gpu, ...] = ()
    driver: bool = False
    complaint: str = ""
    hidden: bool = False
    mps: bool | None = None
    variables: tuple[str, ...] = ()


def read_accelerators() -> Accelerators:
    """Ask torch, and the system, for accelerators."""
    import sys
    from importlib import metadata

    import torch

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        gpus = tuple(_gpu(index) for index in range(count))
    try:
        torchvision = metadata.version("torchvision").partition("+")[0]
    except metadata.PackageNotFoundError:
        torchvision = None
    return Accelerators(
        torch=torch.__version__,
        torchvision=torchvision,
        cuda=torch.version.cuda or torch.version.hip,
        gpus=gpus,
        driver=NVIDIA_DRIVER.exists(),
        complaint=str(caught[0].message).strip().partition("\n")[0] if caught else "",
        hidden="CUDA_VISIBLE_DEVICES" in os.environ,
        mps=torch.backends.mps.is_available() if sys.platform == "darwin" else None,
        variables=tuple(set_variables(VARIABLES)),
    )


def _gpu(index: int) -> Gpu:
    import torch

    from diffusion_lab.runtime.precision import has_bfloat16

    properties = torch.cuda.get_device_properties(index)
    major, minor = torch.cuda.get_device_capability(index)
    bfloat16 = has_bfloat16(torch.device("cuda", index))
    return Gpu(properties.name, properties.total_memory, (major, minor), bfloat16)


def accelerator_findings(found: Accelerators) -> Iterator[Finding]:
    """Yield findings about CUDA devices and Apple GPUs."""
    for index, gpu in enumerate(found.gpus):
        name = "GPU" if len(found.gpus) == 1 else f"GPU cuda:{index}"
        yield _gpu_finding(name, gpu)
    if not found.gpus:
        yield _no_gpu(found)
    if found.mps is not None:
        yield ok("Apple GPU", "usable (compute.device=mps)") if found.mps else fact("Apple GPU", "none that torch uses")
    if found.complaint and found.gpus:
        yield advice("GPU", found.complaint)
    for variable in found.variables:
        yield fact("variable", variable)


def _gpu_finding(name: str, gpu: Gpu) -> Finding:
    major, minor = gpu.capability
    text = f"{gpu.name}, {size(gpu.memory)}, compute capability {major}.{minor}"
    text += "; bfloat16" if gpu.bfloat16 else "; no bfloat16: use_amp=true computes in float16"
    return ok(name, text + (" and TF32" if gpu.capability >= TF32 else "; no TF32"))


def _no_gpu(found: Accelerators) -> Finding:
    if not found.driver:
        return fact("GPU", f"no NVIDIA driver; torch {found.torch} computes on the CPU")
    if found.cuda is None:
        return advice(
            "GPU", f"there is an NVIDIA driver, but torch {found.torch} is built for CPUs only", _other_torch(found)
        )
    if found.hidden and not found.complaint:
        return advice("GPU", "hidden from torch by CUDA_VISIBLE_DEVICES", "unset CUDA_VISIBLE_DEVICES")
    reason = found.complaint or "nvidia-smi may show why"
    return advice("GPU", f"torch, built for CUDA {found.cuda}, cannot use it: {reason}", "nvidia-smi")


def _other_torch(found: Accelerators) -> str:
    """Return the command that replaces torch with the build for NVIDIA GPUs of the same version."""
    packages = [f"torch=={found.torch.partition('+')[0]}"]
    if found.torchvision is not None:
        packages.append(f"torchvision=={found.torchvision}")
    return f"{interpreter()} -m pip install --force-reinstall {' '.join(packages)}"
