"""Whether torch.compile has what it needs: a C++ compiler and Python's headers, for GPUs Triton."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from diffusion_lab.console.command_line import interpreter
from diffusion_lab.doctor.findings import Finding, advice, ok

OS_RELEASE = Path("/etc/os-release")

INSTALL_COMPILER: Mapping[str, tuple[str, str, str]] = {
    "debian": ("apt-get install --yes", "g++", "{python}-dev"),
    "fedora": ("dnf install --assumeyes", "gcc-c++", "python3-devel"),
    "suse": ("zypper install --no-confirm", "gcc-c++", "python3-devel"),
    "arch": ("pacman --sync --noconfirm", "gcc", "python"),
    "alpine": ("apk add", "g++", "python3-dev"),
}
"""Command, compiler and headers by family of Linux distributions."""


@dataclass(frozen=True)
class Compilers:
    """Facts about compiling.

    Args:
        cpp: Path or name of the C++ compiler that torch uses; None: there is none.
        headers: Whether Python's headers are there, which compiled code needs.
        triton: Whether Triton is installed.
        cuda: Whether there is a GPU to compile for.
        system: Family of the system: a key of ``INSTALL_COMPILER``, ``darwin``, or another name.
        is_root: Whether this user may install packages of the system.
    """

    cpp: str | None
    headers: bool
    triton: bool
    cuda: bool
    system: str
    is_root: bool


def read_compilers() -> Compilers:
    """Look for the compilers that torch would use."""
    import torch

    return Compilers(
        cpp=_cpp_compiler(),
        headers=Path(sysconfig.get_path("include"), "Python.h").exists(),
        triton=find_spec("triton") is not None,
        cuda=torch.cuda.is_available(),
        system=_system(),
        is_root=hasattr(os, "geteuid") and os.geteuid() == 0,
    )


def compiler_findings(found: Compilers) -> Iterator[Finding]:
    """Yield the finding about ``training.performance.compile_model=true``."""
    lacking = []
    if found.cpp is None:
        lacking.append("a C++ compiler")
    if not found.headers:
        lacking.append("Python's headers")
    commands = _install(found) if lacking else []
    if found.cuda and not found.triton:
        lacking.append("Triton")
        commands.append(f"{interpreter()} -m pip install triton")
    if lacking:
        text = f"missing: {', '.join(lacking)}; compile_model=true would train uncompiled"
        yield advice("torch.compile", text, *commands)
    else:
        text = f"compiler found: {found.cpp}" + (", and Triton" if found.cuda else "")
        yield ok("torch.compile", text)


def can_compile(found: Compilers) -> bool:
    """Return whether a network can be compiled here."""
    return found.cpp is not None and found.headers and (found.triton or not found.cuda)


def _install(found: Compilers) -> list[str]:
    if found.system == "darwin":
        return ["xcode-select --install"]
    if found.system not in INSTALL_COMPILER:
        return []
    install, compiler, headers = INSTALL_COMPILER[found.system]
    headers = headers.format(python=f"python{sys.version_info.major}.{sys.version_info.minor}")
    packages = [*([compiler] if found.cpp is None else []), *([] if found.headers else [headers])]
    commands = ["apt-get update"] if found.system == "debian" else []
    commands.append(f"{install} {' '.join(packages)}")
    return commands if found.is_root else [f"sudo {command}" for command in commands]


def _cpp_compiler() -> str | None:
    """Return the compiler that torch's inductor finds."""
    try:
        from torch._inductor.cpp_builder import get_cpp_compiler

        name = str(get_cpp_compiler())
    except Exception:  # the error for a missing compiler, or another version of this private module
        name = os.environ.get("CXX") or "g++"
    return name if shutil.which(name) else None


def _system() -> str:
    if sys.platform != "linux":
        return sys.platform
    try:
        lines = OS_RELEASE.read_text().splitlines()
    except OSError:
        return "linux"
    values = dict(line.replace('"', "").split("=", 1) for line in lines if "=" in line)
    names = [values.get("ID", ""), *values.get("ID_LIKE", "").split()]
    return next((name for name in names if name in INSTALL_COMPILER), "linux")
