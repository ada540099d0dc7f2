"""Rules for output folders: everything that a run writes stays inside its own folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from diffusion_lab.config.settings_reader import SettingsReader
from diffusion_lab.faults import Fault, closest, sibling_key


def check_subfolder_links(tree: SettingsReader) -> Iterator[Fault]:
    """Yield faults of folders inside ``output.base_dir`` that are links out of it; checked when a run starts."""
    base = Path(tree["output.base_dir"]).resolve()
    for name in tree.section("output.subdirs"):
        key = f"output.subdirs.{name}"
        target = (base / tree[key]).resolve()
        if base not in target.parents:
            rule = f"must stay inside output.base_dir, but is a link to {target}"
            yield Fault(key, rule, tree[key])


def check_subfolder_names(tree: SettingsReader) -> Iterator[Fault]:
    """Yield faults of additional names that resemble a missing one of the project, which they probably misspell."""
    section, own = tree.section("output.subdirs"), tree.schema_of("output.subdirs").model_fields
    missing = [name for name in own if name not in section]
    for name in section.keys() - own.keys():
        key = f"output.subdirs.{name}"
        suggestion = closest(name, missing, cutoff=0.75)
        if suggestion:
            yield Fault(key, "unknown key", section[name], sibling_key(key, suggestion))
