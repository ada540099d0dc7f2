"""Versions, required packages, and the optional ones by extra."""

from __future__ import annotations

import platform
import re
import sys
import time
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module, metadata
from pathlib import Path
from typing import TYPE_CHECKING

from diffusion_lab.console.command_line import CHECKOUT
from diffusion_lab.doctor.findings import Finding, fact, ok, pip_install, problem
from diffusion_lab.runtime.environment import git_commit
from diffusion_lab.version import __version__

if TYPE_CHECKING:
    from packaging.requirements import Requirement

PROJECT = "diffusion-lab"
SHOWN = ("torch", "torchvision", "lightning", "hydra-core", "wandb")
"""Packages whose versions are shown."""

PURPOSES = {
    "benchmarks": "more handwritten digits for a benchmark",
    "dev": "tests and checks",
    "docs": "the documentation site",
    "launchers": "sweeps in parallel, on Slurm, on Ray",
    "notebooks": "running the notebooks",
    "optuna": "sweeps that search",
    "peers": "other implementations to compare with",
    "workspace": "the layout of a workspace on W&B",
}
"""What the extras are for; one without an entry is only named."""

TRAINING = "diffusion_lab.training.fit"
"""Module that imports all that training needs."""


@dataclass(frozen=True)
class Packages:
    """Facts about packages.

    Args:
        python: Version of Python.
        python_range: Versions that the project supports.
        commit: Commit of the checkout; None outside one.
        required: Requirements of the project, as in ``pyproject.toml``.
        extras: Requirements of each extra; one may name another extra of the project.
        installed: Version of each installed package by its normalized name.
        import_error: Why training cannot be imported; None: it can.
        import_seconds: How long that took.
        checkout: Folder of the checkout; None for an installed package.
    """

    python: str
    python_range: str
    commit: str | None
    required: tuple[str, ...]
    extras: Mapping[str, tuple[str, ...]]
    installed: Mapping[str, str] = field(default_factory=dict)
    import_error: str | None = None
    import_seconds: float = 0.0
    checkout: Path | None = CHECKOUT


def read_packages() -> Packages:
    """Look at what is installed, and import what training needs."""
    if CHECKOUT is not None:  # an editable installation may date from an older pyproject.toml
        project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        required, extras, versions = (
            project["dependencies"],
            project["optional-dependencies"],
            project["requires-python"],
        )
    else:
        own = metadata.metadata(PROJECT)
        required, extras = split_by_extra(own.get_all("Requires-Dist") or [])
        versions = own.get_all("Requires-Python", [""])[0]
    error, seconds = import_of(TRAINING)
    return Packages(
        python=platform.python_version(),
        python_range=versions,
        commit=git_commit(),
        required=tuple(required),
        extras={name: tuple(listed) for name, listed in extras.items()},
        installed={_normal(each.name): each.version for each in metadata.distributions() if each.name},
        import_error=error,
        import_seconds=seconds,
    )


def split_by_extra(requirements: Iterable[str]) -> tuple[list[str], dict[str, list[str]]]:
    """Return the required requirements of a package's metadata, and those of each extra.

    >>> split_by_extra(["torch>=2.10", "optuna==2.10.1; extra == 'optuna'"])
    (['torch>=2.10'], {'optuna': ['optuna==2.10.1']})
    """
    required: list[str] = []
    extras: dict[str, list[str]] = {}
    for text in requirements:
        found = re.search(r"""\s*(?:;|\band\b)\s*extra\s*==\s*['"]([\w.-]+)['"]""", text)
        target = extras.setdefault(found[1], []) if found else required
        target.append(text[: found.start()] if found else text)
    return required, extras


def import_of(module: str, importer: Callable[[str], object] = import_module) -> tuple[str | None, float]:
    """Import a module; return the error, None if there is none, and the seconds."""
    began = time.monotonic()
    try:
        importer(module)
    except Exception as error:  # a broken library can raise anything
        lines = str(error).strip().splitlines() or [""]
        return f"{type(error).__name__}: {lines[0]}", time.monotonic() - began
    return None, time.monotonic() - began


def package_findings(found: Packages) -> Iterator[Finding]:
    """Yield findings about versions and packages."""
    commit = (
        f", commit {found.commit[:12]}{'-dirty' if found.commit.endswith('-dirty') else ''}" if found.commit else ""
    )
    yield fact("diffusion_lab", f"{__version__}{commit}")
    yield fact("packages", ", ".join(f"{name} {found.installed.get(_normal(name), '–')}" for name in SHOWN))
    from packaging.specifiers import SpecifierSet  # installed with Lightning

    if found.python_range and not SpecifierSet(found.python_range).contains(found.python, prereleases=True):
        yield problem("Python", f"{found.python}, but the project supports {found.python_range}")
    else:
        yield ok("Python", f"{found.python} in {_environment()}")
    yield _required(found)
    if found.import_error is None:
        yield ok("imports", f"what training needs can be imported, in {found.import_seconds:.1f} s")
    else:
        yield problem("imports", f"training cannot be imported: {found.import_error}", _install_required(found))


def extra_findings(found: Packages) -> Iterator[Finding]:
    """Yield one finding per extra, with the command that installs it."""
    for name in sorted(found.extras):
        requirements = expanded(name, found.extras)
        lacking = unsatisfied(requirements, found.installed)
        purpose = f"{PURPOSES[name]}: " if name in PURPOSES else ""
        if lacking:
            text = f"{purpose}not installed ({', '.join(lacking.values())})"
            yield fact(name, text, pip_install(name, requirements, found.checkout))
        else:
            yield ok(name, f"{purpose}installed")


def _required(found: Packages) -> Finding:
    lacking = unsatisfied(found.required, found.installed)
    if not lacking:
        return ok("required", f"all {len(found.required)} required packages, in versions that should work")
    return problem(
        "required", f"missing or in another version: {', '.join(lacking.values())}", _install_required(found)
    )


def _install_required(found: Packages) -> str:
    lacking = unsatisfied(found.required, found.installed)
    return pip_install(None, lacking or found.required, found.checkout)


def unsatisfied(requirements: Sequence[str], installed: Mapping[str, str]) -> dict[str, str]:
    """Return the requirements that no installed version satisfies, each with its package and version in words."""
    from packaging.requirements import Requirement

    found = {}
    for text in requirements:
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate():
            fault = _fault(requirement, installed.get(_normal(requirement.name)))
            if fault is not None:
                found[text] = fault
    return found


def _fault(requirement: Requirement, version: str | None) -> str | None:
    if version is None:
        return requirement.name
    if requirement.specifier.contains(version, prereleases=True):
        return None
    return f"{requirement.name} {version}, which is not {requirement.specifier}"


def expanded(extra: str, extras: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Return the requirements of an extra, with those of the extras that it names."""
    requirements = []
    for text in extras.get(extra, ()):
        inner = re.match(r"diffusion[-_.]lab\[([\w,.-]+)\]", text)
        if inner is None:
            requirements.append(text)
        else:
            requirements += [each for name in inner[1].split(",") for each in expanded(name, extras)]
    return requirements


def _normal(name: str) -> str:
    """Return the name of a package in its normal form."""
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def _environment() -> str:
    return "a virtual environment" if sys.prefix != sys.base_prefix else "no virtual environment"
