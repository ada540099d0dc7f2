"""What a tree with ``mode: generate`` may leave out of sections that training needs complete."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from diffusion_lab.config.defaults import get_default_config
from diffusion_lab.config.faults import NO_VALUE, Fault
from diffusion_lab.config.patch_size import choose_patch_size
from diffusion_lab.config.reading import section_of
from diffusion_lab.config.schema import GenerateConfig, RunConfig

UNREAD_WHEN_GENERATING = ("data", "training")


def fill_for_generation(tree: dict[str, Any]) -> None:
    """Give the sections that a tree with ``mode: generate`` has the keys that they leave out, in place.

    The values are those of the default tree. Sections that are left out as a whole stay so.
    """
    defaults = get_default_config()
    for name in UNREAD_WHEN_GENERATING:
        section = section_of(GenerateConfig, name)
        if section is not None and isinstance(tree.get(name), dict):
            _fill(tree[name], section, defaults[name])
    if isinstance(tree.get("model"), dict):
        fill_model(tree["model"])


def fill_model(model: dict[str, Any]) -> None:
    """Give the ``model`` section beside the checkpoint of another program the keys that it leaves out, in place.

    ``auto`` for the patch size becomes a number.

    The stages of the network are two lists of one length: where one of them is given, the other is left out, to be
    asked for. So are both of a network that is no U-Net.
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
    for name, field in section.model_fields.items():
        inner = section_of(section, name)
        if name not in tree:
            if field.is_required() and name in defaults:
                tree[name] = defaults[name]
        elif inner is not None and isinstance(tree[name], dict):
            _fill(tree[name], inner, defaults.get(name, {}))


def is_demanded(fault: Fault, root: type[RunConfig]) -> bool:
    """Whether a fault stands for runs of this kind: generation demands no key of a section that it does not read."""
    unread = root is GenerateConfig and fault.key.partition(".")[0] in UNREAD_WHEN_GENERATING
    return not (unread and fault.value is NO_VALUE)
