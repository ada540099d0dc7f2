"""The rule for folders: what a run writes stays inside its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from diffusion_lab.config.faults import Fault, closest, sibling_key
from diffusion_lab.config.settings_reader import SettingsReader


def subfolders_stay_inside(tree: SettingsReader) -> Iterator[Fault]:
    """Asked when a run starts: a folder whose name is inside ``output.base_dir`` may be a link that leads elsewhere."""
    base = Path(tree["output.base_dir"]).resolve()
    for name in tree.section("output.subdirs"):
        key = f"output.subdirs.{name}"
        place = (base / tree[key]).resolve()
        if base not in place.parents:
            rule = f"must stay inside output.base_dir, but is a link that leads to {place}"
            yield Fault(key, rule, tree[key])


def no_mistyped_subfolder(tree: SettingsReader) -> Iterator[Fault]:
    """A further name is taken for a mistyped one where it is like one of the project's own that is left out."""
    given, own = tree.section("output.subdirs"), tree.schema_of("output.subdirs").model_fields
    left_out = [name for name in own if name not in given]
    for name in given.keys() - own.keys():
        key = f"output.subdirs.{name}"
        meant = closest(name, left_out, cutoff=0.75)
        if meant:
            yield Fault(key, "unknown key", given[name], sibling_key(key, meant))
