"""The rules for folders: what a run writes stays inside its own folder, and outside of that of the images."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from diffusion_lab.config.faults import Fault
from diffusion_lab.config.reading import SettingsReader


def subfolders_stay_inside(tree: SettingsReader) -> Iterator[Fault]:
    """Also where a symbolic link leads: its name alone is within ``output.base_dir``."""
    base = Path(tree["output.base_dir"])
    for name in tree.section("output.subdirs"):
        key = f"output.subdirs.{name}"
        place = base / tree[key]
        if base.resolve() not in place.resolve().parents:
            rule = f"must stay inside output.base_dir, but is a link that leads to {place.resolve()}"
            yield Fault(key, rule, tree[key])


def output_is_no_input(tree: SettingsReader) -> Iterator[Fault]:
    """Pictures sampled while training would be among the images of the next run."""
    if tree["mode"] != "train" or tree["data.type"] != "image_folder":
        return
    base = Path(tree["output.base_dir"])
    for key in ("data.paths.train", "data.paths.val"):
        images = tree[key]
        if images is None or not base.resolve().is_relative_to(Path(images).resolve()):
            continue
        within = base.resolve().relative_to(Path(images).resolve())
        if not any(part.startswith(".") for part in within.parts):  # hidden folders are left out
            rule = f"must lie outside of {key}, {str(images)!r}: its pictures would be taken for training images"
            yield Fault("output.base_dir", rule, str(base))
