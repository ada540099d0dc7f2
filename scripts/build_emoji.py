"""Build diffusion_lab/data/emoji.npz: 32×32 RGBA emoji in ten named groups (graphics: Twemoji, CC BY 4.0).

    python scripts/build_emoji.py                                      # downloads the package with npm
    python scripts/build_emoji.py --tarball emoji-datasource-twitter-16.0.0.tgz

The same package gives the same images, and the same bytes with the same versions of Pillow and zlib.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

PACKAGE = "emoji-datasource-twitter@16.0.0"
SIZE = 32
ARCHIVE = Path(__file__).resolve().parents[1] / "diffusion_lab" / "data" / "emoji.npz"
GROUPS = (
    "Smileys & Emotion",
    "People & Body",
    "Component",
    "Animals & Nature",
    "Food & Drink",
    "Travel & Places",
    "Activities",
    "Objects",
    "Symbols",
    "Flags",
)
"""Unicode's groups in Unicode's order; their indices are the class numbers."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tarball", type=Path, help="use this npm package instead of downloading it")
    parser.add_argument("--output", type=Path, default=ARCHIVE, help="file to write (default: %(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        try:
            arrays = read_package(options.tarball or fetch(Path(folder)))
        except (OSError, KeyError, subprocess.CalledProcessError, tarfile.TarError) as error:
            reason = str(error).partition("\n")[0]
            print(f"build_emoji: cannot read {options.tarball or PACKAGE}: {reason}", file=sys.stderr)
            return 1
    write_archive(arrays, options.output)
    print(f"{options.output}: {len(arrays['images'])} emoji, {options.output.stat().st_size:,} bytes")
    return 0


def fetch(folder: Path) -> Path:
    """Download the npm package into ``folder`` and return its file."""
    command = ["npm", "pack", PACKAGE, "--silent"]
    output = subprocess.run(command, cwd=folder, check=True, text=True, stdout=subprocess.PIPE).stdout
    return folder / output.split()[-1]


def read_package(tarball: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays of the archive, emoji in Unicode's order (without skin tones and other variants)."""
    with tarfile.open(tarball) as package:
        table = json.load(_member(package, "package/emoji.json"))
        listed = sorted((e for e in table if e["has_img_twitter"]), key=lambda emoji: emoji["sort_order"])
        images = [read_image(_member(package, f"package/img/twitter/64/{e['image']}")) for e in listed]
    return {
        "images": np.stack(images),
        "labels": np.array([GROUPS.index(e["category"]) for e in listed], dtype=np.uint8),
        "class_names": np.array(GROUPS),
        "names": np.array([e["short_name"] for e in listed]),
    }


def read_image(file: io.BytesIO) -> NDArray[np.uint8]:
    """Return an emoji as uint8 (SIZE, SIZE, 4); fully transparent pixels are black, which compresses better."""
    image = Image.open(file).convert("RGBA").resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    pixels = np.array(image, dtype=np.uint8)
    pixels[pixels[..., 3] == 0] = 0
    return pixels


def write_archive(arrays: dict[str, NDArray[Any]], path: Path) -> None:
    """Write a reproducible .npz, without the current time in it."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, array, allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            archive.writestr(entry, buffer.getvalue(), zipfile.ZIP_DEFLATED, compresslevel=9)


def _member(package: tarfile.TarFile, name: str) -> io.BytesIO:
    file = package.extractfile(name)
    if file is None:
        raise KeyError(f"{name} is not a file in the package")
    return io.BytesIO(file.read())


if __name__ == "__main__":
    sys.exit(main())
