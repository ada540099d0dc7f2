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

from diffusion_lab.config.recipes import RECIPES, ChosenFile, dropped_keys
from diffusion_lab.config.settings_reader import leaves

DATA = "data"
"""The group whose files choose files of other groups, as recipes do."""

Choice = dict[str, str]
"""Group → file, as ``GROUP=NAME`` on the command line."""


@dataclass(frozen=True)
class ConfFile:
    """One file: the values it sets, by dotted key, the files of other groups it asks for, and its own section."""

    values: dict[str, Any]
    chosen: dict[str, str | None]
    package: str


class ConfFiles:
    """The groups that one of the root files (``train``, ``sample``) composes."""

    def __init__(self, conf: Path, root: str) -> None:
        self._conf = conf
        self._load = cache(self._loaded)
        self.root = self._load(root)

    def composed(self, choice: Choice) -> dict[str, Any]:
        """The values by dotted key, as Hydra composes them; references stay unresolved."""
        name = choice.get(RECIPES) or self.root.chosen.get(RECIPES)
        recipe = self._load(f"{RECIPES}/{name}") if name else ConfFile({}, {}, "")
        names = self.root.chosen | recipe.chosen | choice
        data = names.get(DATA)
        if data:
            names |= self._load(f"{DATA}/{data}").chosen | recipe.chosen | choice
        files = {group: self._load(f"{group}/{file}") for group, file in names.items() if file is not None}
        chosen = {
            group: ChosenFile(str(names[group]), file.package, frozenset(file.values))
            for group, file in files.items()
            if group != RECIPES
        }
        dropped = dropped_keys(recipe.values, recipe.chosen, chosen)
        values = dict(self.root.values)
        for group, file in files.items():
            values |= {key: value for key, value in file.values.items() if group != RECIPES or key not in dropped}
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
        values = _followed(self.composed(choice))
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
        return ConfFile(values, chosen, package)


def _followed(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values with those that only repeat another key, as ``${name}`` does, replaced by what they repeat."""
    return {key: values.get(value[2:-1], value) if isinstance(value, str) else value for key, value in values.items()}
