"""Environment of a run: command line, versions, platform and git commit."""

from __future__ import annotations

import platform
import subprocess
import sys
from importlib import metadata
from typing import Any

from diffusion_lab.console.command_line import CHECKOUT
from diffusion_lab.console.redaction import redacted_command
from diffusion_lab.version import __version__

PACKAGES = ("torch", "torchvision", "lightning", "hydra-core", "omegaconf", "pydantic", "numpy")


def environment() -> dict[str, Any]:
    """Return versions of Python and packages, the platform, the command line without secrets, and the git commit."""
    return {
        "command": redacted_command(sys.argv),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {"diffusion_lab": __version__} | {name: _version(name) for name in PACKAGES},
        "git_commit": git_commit(),
    }


def git_commit() -> str | None:
    """Return the commit of the project's checkout, with ``-dirty`` if files differ; None outside a checkout."""
    if CHECKOUT is None:
        return None  # an environment inside a repository of the user
    command = ["git", "-C", str(CHECKOUT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
