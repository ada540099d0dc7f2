"""The V2 defaults, and the keys that a tree with ``mode: generate`` takes from them."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from diffusion_lab.data.auto_size import choose_patch_size
from diffusion_lab.typed_settings.settings_reader import member_of, section_of

V2_DEFAULTS = Path(__file__).with_name("v2_defaults.yaml")
"""Every key of the V2 format with its default and a comment: the only place where they are stated."""


def get_default_config() -> dict[str, Any]:
    """Return the complete default tree as a plain dict, a new one at each call.

    >>> get_default_config()["training"]["ema"]
    {'enabled': True, 'decay': 0.9999}
    """
    tree: dict[str, Any] = pickle.loads(_pickled_defaults())  # copies faster than deepcopy
    return tree


@cache
def _pickled_defaults() -> bytes:
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C version is several times as fast
    return pickle.dumps(yaml.load(V2_DEFAULTS.read_text(encoding="utf-8"), loader))


def fill_for_generation(tree: dict[str, Any], root: type[BaseModel]) -> None:
    """Add missing keys to the sections of a tree with ``mode: generate``, in place.

    The values are those of the default tree, except that ``compute.device`` is ``auto``. The checkpoint and the output
    folder have none. Sections other than ``compute`` that are missing entirely stay missing.
    """
    defaults = get_default_config()
    defaults["compute"]["device"] = "auto"
    del defaults["generation"]["checkpoint"], defaults["output"]["base_dir"], defaults["model"]
    _fill(tree, root, {name: value for name, value in defaults.items() if name in tree or name == "compute"})
    model = section_of(root, "model")
    if model is not None and isinstance(tree.get("model"), dict):
        fill_model(tree["model"], model)


def fill_model(model: dict[str, Any], section: type[BaseModel]) -> None:
    """Add missing keys to the ``model`` section for a checkpoint of another program, in place.

    ``auto`` for the patch size becomes a number. The stages of the network are two lists of the same length: if one of
    them is given, the other is not added, so that it is reported as missing. Neither is added for a network other than
    the U-Net.
    """
    defaults = get_default_config()["model"]
    architecture = model.get("architecture")
    if isinstance(architecture, dict):
        stages = ("channel_multipliers", "use_attention")
        if architecture.get("type", "unet") != "unet" or any(name in architecture for name in stages):
            for name in stages:
                del defaults["architecture"][name]
    _fill(model, section, defaults)
    if isinstance(architecture, dict):
        choose_patch_size(architecture)


def _fill(tree: dict[str, Any], section: type[BaseModel], defaults: Mapping[str, Any]) -> None:
    for name, field in (member_of(section, tree) or section).model_fields.items():
        inner = section_of(section, name)
        if name not in tree:
            if field.is_required() and name in defaults:
                tree[name] = defaults[name]
        elif inner is not None and isinstance(tree[name], dict):
            _fill(tree[name], inner, defaults.get(name, {}))
