"""Values of a recipe that belong to a choice overridden on the command line, and a loader that drops them.

A recipe selects files of groups and sets further values for them: ``scheduler: warmup_cosine`` with
``training.scheduler.warmup_steps``. With ``scheduler=cosine`` on the command line, that value is for a schedule that is
not used. So values that a recipe sets in the section of a group apply only with the file that it selected itself; a
file of another choice is used unchanged.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import IConfigRepository
from hydra.core.default_element import GroupDefault, ResultDefault
from omegaconf import DictConfig, OmegaConf

from diffusion_lab.typed_settings.settings_reader import leaves

RECIPES = "experiment"
"""Group of the recipes."""

RECIPE_KEYS = ("name",)
"""Keys that name the recipe, even if the data has its own name."""


@dataclass(frozen=True)
class ChosenFile:
    """A file of a group: its name, the section that it fills, and the keys that it sets."""

    name: str
    section: str
    keys: frozenset[str]


def dropped_keys(
    recipe_keys: Iterable[str], recipe_choice: Mapping[str, str | None], chosen: Mapping[str, ChosenFile]
) -> set[str]:
    """Return the keys of a recipe that belong to overridden choices.

    Args:
        recipe_keys: Dotted keys that the recipe sets.
        recipe_choice: Files that it selects, by group.
        chosen: Files that are composed, by group.
    """
    dropped: set[str] = set()
    for group, file in chosen.items():
        if group not in recipe_choice or recipe_choice[group] == file.name:
            continue
        others = [other for name, other in chosen.items() if name != group]
        if any(other.section.startswith(f"{file.section}." if file.section else "") for other in others):
            dropped |= file.keys.difference(RECIPE_KEYS)  # a section of several groups: what the file itself sets
        else:
            other_keys = frozenset().union(*(other.keys for other in others))
            dropped |= {key for key in recipe_keys if key.startswith(f"{file.section}.") and key not in other_keys}
    return dropped & set(recipe_keys)


def dropped_from_recipe(defaults: Iterable[Any], repo: Any) -> tuple[Any, set[str]]:
    """Return the recipe's entry in Hydra's defaults list, or None, and its keys that are ignored.

    Args:
        defaults: Hydra's defaults list.
        repo: Hydra's config repository.
    """
    files = [default for default in defaults if default.config_path and not default.is_self]
    recipe = next((file for file in files if file.config_path.startswith(f"{RECIPES}/")), None)
    if recipe is None:
        return None, set()
    loaded = repo.load_config(recipe.config_path)
    choice = {
        str(entry.group).removeprefix("/"): cast("str | None", entry.value)
        for entry in loaded.defaults_list or ()
        if isinstance(entry, GroupDefault) and entry.override
    }
    chosen = {}
    for file in files:
        group, _, name = file.config_path.rpartition("/")
        if group and file is not recipe and not (file.package or "").startswith("hydra"):
            section = file.package or ""
            chosen[group] = ChosenFile(name, section, frozenset(_keys(repo.load_config(file.config_path), section)))
    return recipe, dropped_keys(_keys(loaded, recipe.package or ""), choice, chosen)


def _keys(loaded: Any, section: str) -> set[str]:
    tree = cast("dict[str, Any]", OmegaConf.to_container(loaded.config, resolve=False))
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


class RecipeLoader(ConfigLoaderImpl):
    """Hydra's loader of settings, without the values of a recipe that belong to overridden choices."""

    def _compose_config_from_defaults_list(self, defaults: list[ResultDefault], repo: IConfigRepository) -> DictConfig:
        recipe, dropped = dropped_from_recipe(defaults, repo)
        compose = super()._compose_config_from_defaults_list
        if not dropped:
            return compose(defaults, repo)
        index = defaults.index(recipe)
        composed = compose(defaults[:index], repo)
        composed.merge_with(_without(compose([recipe], repo), dropped))
        composed.merge_with(compose(defaults[index + 1 :], repo))
        return composed
