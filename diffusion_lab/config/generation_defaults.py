"""Defaults for keys that training requires and a tree with ``mode: generate`` may omit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from diffusion_lab.config.defaults import get_default_config
from diffusion_lab.config.patch_size import choose_patch_size
from diffusion_lab.config.schema import GenerateConfig, RunConfig
from diffusion_lab.config.settings_reader import member_of, section_of
from diffusion_lab.faults import NO_VALUE, Fault

UNUSED_WHEN_GENERATING = ("data", "training")


def fill_for_generation(tree: dict[str, Any]) -> None:
    """Add missing keys to the sections of a tree with ``mode: generate``, in place.

    The values are those of the default tree. Sections that are missing entirely stay missing.
    """
    defaults = get_default_config()
    for name in UNUSED_WHEN_GENERATING:
        section = section_of(GenerateConfig, name)
        if section is not None and isinstance(tree.get(name), dict):
            _fill(tree[name], section, defaults[name])
    if isinstance(tree.get("model"), dict):
        fill_model(tree["model"])


def fill_model(model: dict[str, Any]) -> None:
    """Add missing keys to the ``model`` section for a checkpoint of another program, in place.

    ``auto`` for the patch size becomes a number.

    The stages of the network are two lists of the same length: if one of them is given, the other is not added, so that
    it is reported as missing. Neither is added for a network other than the U-Net.
    """
    section = section_of(GenerateConfig, "model")
    defaults = get_default_config()["model"]
    architecture = model.get("architecture")
    if isinstance(architecture, dict):
        stages = ("channel_multipliers", "use_attention")
        if architecture.get("type", "unet") != "unet" or any(name in architecture for name in stages):
            for name in stages:
                del defaults["architecture"][name]
    if section is not None:
        _fill(model, section, defaults)
    choose_patch_size(architecture)


def _fill(tree: dict[str, Any], section: type[BaseModel], defaults: Mapping[str, Any]) -> None:
    for name, field in (member_of(section, tree) or section).model_fields.items():
        inner = section_of(section, name)
        if name not in tree:
            if field.is_required() and name in defaults:
                tree[name] = defaults[name]
        elif inner is not None and isinstance(tree[name], dict):
            _fill(tree[name], inner, defaults.get(name, {}))


def is_relevant(fault: Fault, root: type[RunConfig]) -> bool:
    """Return whether a fault applies to this kind of run: generation requires no keys in sections that it ignores."""
    unused = root is GenerateConfig and fault.key.partition(".")[0] in UNUSED_WHEN_GENERATING
    return not (unused and fault.value is NO_VALUE)
