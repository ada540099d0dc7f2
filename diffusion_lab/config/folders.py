"""Rules for output folders: everything that a run writes stays inside its own folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from diffusion_lab.config.schema import SubfolderSettings
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


def check_subfolder_names(tree: Mapping[str, Any]) -> Iterator[Fault]:
    """Yield faults of additional names that resemble a missing one of the project, which they probably misspell."""
    output = tree.get("output")
    subfolders = output.get("subdirs") if isinstance(output, Mapping) else None
    if not isinstance(subfolders, Mapping):
        return
    own = SubfolderSettings.model_fields.keys()
    for name in subfolders.keys() - own:
        suggestion = closest(name, own - subfolders.keys(), cutoff=0.75)
        if suggestion:
            key = f"output.subdirs.{name}"
            yield Fault(key, "unknown key", subfolders[name], sibling_key(key, suggestion))
