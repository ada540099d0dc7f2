"""What the files of ``conf/`` set, read without Hydra: fast enough to try every combination of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from diffusion_lab.config.reading import leaves

RECIPES, DATA = "experiment", "data"
"""Groups whose files choose files of other groups."""

Choice = dict[str, str]
"""Group → file, as ``GROUP=NAME`` on the command line."""


@dataclass(frozen=True)
class ConfFile:
    """One file: the values it sets, by dotted key, and the files of other groups it asks for."""

    values: dict[str, Any]
    chosen: dict[str, str | None]


class ConfFiles:
    """The groups that one of the root files (``train``, ``sample``) composes."""

    def __init__(self, conf: Path, root: str) -> None:
        self._conf = conf
        self._load = cache(self._loaded)
        self.root = self._load(root)

    def composed(self, choice: Choice) -> dict[str, Any]:
        """The values by dotted key, as Hydra composes them; references stay unresolved."""
        recipe = choice.get(RECIPES) or self.root.chosen.get(RECIPES)
        asked = (self._load(f"{RECIPES}/{recipe}").chosen if recipe else {}) | choice
        names = self.root.chosen | asked
        data = names.get(DATA)
        if data:
            names |= self._load(f"{DATA}/{data}").chosen | asked
        values = dict(self.root.values)
        for group, name in names.items():
            if name is not None:
                values |= self._load(f"{group}/{name}").values
        return values

    def nearest_choice(self, wanted: Mapping[str, Any]) -> Choice:
        """The files, differing from the root's own, that leave the fewest keys unlike ``wanted`` (by dotted key).

        Beyond recipe and data, each group has keys of its own, so each is chosen for itself.
        """
        found = [self._refined(start, wanted) for start in self._starts()]
        return min(found, key=lambda choice: (self._distance(choice, wanted), len(choice)))

    def _starts(self) -> Iterator[Choice]:
        options = [[None, *self._names(group)] if group in self.root.chosen else [None] for group in (RECIPES, DATA)]
        for recipe, data in product(*options):
            yield {group: name for group, name in ((RECIPES, recipe), (DATA, data)) if name is not None}

    def _refined(self, choice: Choice, wanted: Mapping[str, Any]) -> Choice:
        for group in self.root.chosen:
            if group not in (RECIPES, DATA):
                options = [choice, *({**choice, group: name} for name in self._names(group))]
                choice = min(options, key=lambda option: self._distance(option, wanted))
        return choice

    def _distance(self, choice: Choice, wanted: Mapping[str, Any]) -> int:
        values = self.composed(choice)
        unlike = [key for key, value in wanted.items() if key not in values or values[key] != value]
        return len(unlike) + len(values.keys() - wanted.keys())

    def _names(self, group: str) -> list[str]:
        return sorted(file.stem for file in (self._conf / group).glob("*.yaml"))

    def _loaded(self, name: str) -> ConfFile:
        text = (self._conf / f"{name}.yaml").read_text(encoding="utf-8")
        group = name.rpartition("/")[0]
        header = re.search(r"^# *@package +(\S+)", text, flags=re.MULTILINE)
        package = header[1].replace("_global_", "") if header else group
        tree = yaml.safe_load(text) or {}
        values: dict[str, Any] = {}
        chosen: dict[str, str | None] = {}
        for entry in tree.pop("defaults", []):
            if isinstance(entry, dict):
                ((key, file),) = entry.items()
                key = key.removeprefix("override ").removeprefix("/")
                if not key.startswith("hydra/"):
                    chosen[key] = file
            elif group and entry != "_self_":  # a file that builds on another of its group
                above = self._load(f"{group}/{entry}")
                values, chosen = values | above.values, chosen | above.chosen
        tree.pop("hydra", None)
        values |= leaves(tree, f"{package}." if package else "")
        return ConfFile(values, chosen)
