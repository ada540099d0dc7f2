"""The rule for folders: what a run writes stays inside its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from diffusion_lab.config.faults import Fault
from diffusion_lab.config.reading import SettingsReader


def subfolders_stay_inside(tree: SettingsReader) -> Iterator[Fault]:
    """Also where a symbolic link leads: its name alone is within ``output.base_dir``."""
    base = Path(tree["output.base_dir"]).resolve()
    for name in tree.section("output.subdirs"):
        key = f"output.subdirs.{name}"
        place = (base / tree[key]).resolve()
        if base not in place.parents:
            rule = f"must stay inside output.base_dir, but is a link that leads to {place}"
            yield Fault(key, rule, tree[key])
