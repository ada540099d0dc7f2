"""Values set by the files of ``conf/``, read without Hydra: fast enough to try every combination of files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from diffusion_lab.cli.recipes import RECIPES, ChosenFile, dropped_keys
from diffusion_lab.typed_settings.settings_reader import leaves

DATA = "data"
"""Group whose files select files of other groups, as recipes do."""

Choice = dict[str, str]
"""Group → file, as ``GROUP=NAME`` on the command line."""


@dataclass(frozen=True)
class ConfFile:
    """One file: the values it sets, by dotted key, the files of other groups it asks for, and its own section."""

    values: dict[str, Any]
    chosen: dict[str, str | None]
    package: str


class ConfFiles:
    """Groups that one of the main files (``train``, ``sample``) composes."""

    def __init__(self, conf: Path, root: str) -> None:
        self._conf = conf
        self._load = cache(self._loaded)
        self.root = self._load(root)

    def composed(self, choice: Choice) -> dict[str, Any]:
        """Return the values by dotted key, as composed by Hydra; references stay unresolved."""
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

    def nearest_choice(self, target: Mapping[str, Any]) -> Choice:
        """Return the choices besides the defaults for which the fewest keys differ from ``target`` (by dotted key).

        Except for recipe and data, each group has its own keys, so each is chosen separately.
        """
        candidates = [self._refined(start, target) for start in self._starts()]
        return min(candidates, key=lambda choice: (self._distance(choice, target), len(choice)))

    def _starts(self) -> Iterator[Choice]:
        options = [[None, *self._names(group)] if group in self.root.chosen else [None] for group in (RECIPES, DATA)]
        for recipe, data in product(*options):
            yield {group: name for group, name in ((RECIPES, recipe), (DATA, data)) if name is not None}

    def _refined(self, choice: Choice, target: Mapping[str, Any]) -> Choice:
        for group in self.root.chosen:
            if group not in (RECIPES, DATA):
                options = [choice, *({**choice, group: name} for name in self._names(group))]
                choice = min(options, key=lambda option: self._distance(option, target))
        return choice

    def _distance(self, choice: Choice, target: Mapping[str, Any]) -> int:
        values = _resolve_aliases(self.composed(choice))
        different = [key for key, value in target.items() if key not in values or values[key] != value]
        return len(different) + len(values.keys() - target.keys())

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
            elif group and entry != "_self_":  # a file that extends another one of its group
                base = self._load(f"{group}/{entry}")
                values, chosen = values | base.values, chosen | base.chosen
        tree.pop("hydra", None)
        values |= leaves(tree, f"{package}." if package else "")
        return ConfFile(values, chosen, package)


def _resolve_aliases(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values, with aliases of another key, such as ``${name}``, replaced by its value."""
    return {key: values.get(value[2:-1], value) if isinstance(value, str) else value for key, value in values.items()}
