"""Fetches what `make gpu-check` may lack on a machine that has torch and no network: `make gpu-wheels`."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

NAMES = (
    *("annotated-types", "antlr4-python3-runtime", "diffusers", "hydra-core", "importlib_metadata", "omegaconf"),
    *("platformdirs", "pydantic", "pydantic_core", "rich", "typing-inspection", "wandb", "zipp"),
)
"""Packages that machines with torch and Lightning often lack; what they have is not needed again."""

PYTHON = "3.12"
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


def main(folder: Path) -> None:
    """Fill the folder with wheels of the versions in constraints.txt."""
    pinned = dict(
        re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    )
    wanted = [f"{name}=={pinned[name]}" if name in pinned else name for name in NAMES]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    source = next(name for name in wanted if name.startswith("antlr4"))  # there is no wheel of it to be fetched
    subprocess.run([*pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), source], check=True)
    platforms = [f"--platform={name}" for name in PLATFORMS]
    kind = ["--only-binary=:all:", "--python-version", PYTHON, "--implementation", "cp", *platforms]
    others = [name for name in wanted if name != source]
    subprocess.run([*pip, "download", "--quiet", "--no-deps", *kind, "--dest", str(folder), *others], check=True)
    print(f"{len(list(folder.glob('*.whl')))} wheels in {folder}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else ".gpu-wheels"))
