"""What a recipe sets for a choice that the command line made otherwise, and how Hydra leaves it out.

A recipe chooses files of groups and sets further values for them: ``scheduler: warmup_cosine`` with
``training.scheduler.warmup_steps``. With ``scheduler=cosine`` on the command line, that value is for a schedule which
was not chosen. So what a recipe sets in the section of a group counts only with the file that it chose itself; a file
of another choice is taken as it stands.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.default_element import GroupDefault
from omegaconf import DictConfig, OmegaConf

from diffusion_lab.config.settings_reader import leaves

RECIPES = "experiment"
"""The group of recipes."""

OF_THE_RECIPE = ("name",)
"""Keys that name the recipe, also with data that has a name of its own."""


@dataclass(frozen=True)
class ChosenFile:
    """A file of a group: its name, the section that it fills, and the keys that it sets."""

    name: str
    section: str
    keys: frozenset[str]


def dropped_keys(
    recipe_keys: Iterable[str], recipe_choice: Mapping[str, str | None], chosen: Mapping[str, ChosenFile]
) -> set[str]:
    """The keys of a recipe that belong to choices which were made otherwise.

    Args:
        recipe_keys: Dotted keys that the recipe sets.
        recipe_choice: The files that it chooses, by group.
        chosen: The files that are composed, by group.
    """
    dropped: set[str] = set()
    for group, file in chosen.items():
        if group not in recipe_choice or recipe_choice[group] == file.name:
            continue
        others = [other for name, other in chosen.items() if name != group]
        if any(other.section.startswith(f"{file.section}." if file.section else "") for other in others):
            dropped |= file.keys.difference(OF_THE_RECIPE)  # a section of several groups: what the file itself sets
        else:
            of_others = frozenset().union(*(other.keys for other in others))
            dropped |= {key for key in recipe_keys if key.startswith(f"{file.section}.") and key not in of_others}
    return dropped & set(recipe_keys)


def dropped_from_recipe(defaults: Iterable[Any], repo: Any) -> tuple[Any, set[str]]:
    """The entry of the recipe in Hydra's list of files, and which of its keys do not count; None without one.

    Args:
        defaults: Hydra's list of files to compose.
        repo: Where Hydra reads them.
    """
    files = [default for default in defaults if default.config_path and not default.is_self]
    recipe = next((file for file in files if file.config_path.startswith(f"{RECIPES}/")), None)
    if recipe is None:
        return None, set()
    found = repo.load_config(recipe.config_path)
    choice = {
        str(entry.group).removeprefix("/"): cast("str | None", entry.value)
        for entry in found.defaults_list or ()
        if isinstance(entry, GroupDefault) and entry.override
    }
    chosen = {}
    for file in files:
        group, _, name = file.config_path.rpartition("/")
        if group and file is not recipe and not (file.package or "").startswith("hydra"):
            section = file.package or ""
            chosen[group] = ChosenFile(name, section, frozenset(_keys(repo.load_config(file.config_path), section)))
    return recipe, dropped_keys(_keys(found, recipe.package or ""), choice, chosen)


def _keys(found: Any, section: str) -> set[str]:
    tree = cast("dict[str, Any]", OmegaConf.to_container(found.config, resolve=False))
    tree.pop("defaults", None)
    return set(leaves(tree, f"{section}." if section else ""))


def _without(tree: DictConfig, keys: Iterable[str]) -> DictConfig:
    OmegaConf.set_struct(tree, False)
    for key in keys:
        parent, _, name = key.rpartition(".")
        node = OmegaConf.select(tree, parent) if parent else tree
        if isinstance(node, DictConfig) and name in node:
            del node[name]
    return tree


_compose_all = ConfigLoaderImpl._compose_config_from_defaults_list


def _compose(loader: ConfigLoaderImpl, defaults: list[Any], repo: Any) -> DictConfig:
    recipe, dropped = dropped_from_recipe(defaults, repo)
    if not dropped:
        return _compose_all(loader, defaults, repo)
    place = defaults.index(recipe)
    composed = _compose_all(loader, defaults[:place], repo)
    composed.merge_with(_without(_compose_all(loader, [recipe], repo), dropped))
    composed.merge_with(_compose_all(loader, defaults[place + 1 :], repo))
    return composed


def let_choices_replace_what_recipes_set() -> None:
    """Have Hydra compose so, in this process."""
    ConfigLoaderImpl._compose_config_from_defaults_list = _compose  # type: ignore[method-assign, assignment]
