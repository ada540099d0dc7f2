"""Rules that involve several keys of ``model``: its network, its noise process, its classes."""

from __future__ import annotations

from collections.abc import Iterator

from diffusion_lab.faults import Fault
from diffusion_lab.typed_settings.settings_reader import SettingsReader


def check_attention_flags(tree: SettingsReader) -> Iterator[Fault]:
    if tree["model.architecture.type"] != "unet":
        return
    stages = len(tree["model.architecture.channel_multipliers"])
    flags = tree["model.architecture.use_attention"]
    if len(flags) != stages:
        rule = f"must have one entry per stage: {stages}, as in model.architecture.channel_multipliers"
        yield Fault("model.architecture.use_attention", rule, flags)


def check_transformer_width(tree: SettingsReader) -> Iterator[Fault]:
    if tree["model.architecture.type"] != "dit":
        return
    width, heads = tree["model.architecture.hidden_size"], tree["model.architecture.num_heads"]
    if width % 4:
        rule = "must be divisible by 4: a sine and a cosine each for row and column"
        yield Fault("model.architecture.hidden_size", rule, width)
    if width % heads:
        yield Fault("model.architecture.num_heads", f"must divide model.architecture.hidden_size, {width}", heads)


def check_image_size(tree: SettingsReader) -> Iterator[Fault]:
    kind = tree["model.architecture.type"]
    if kind not in ("unet", "dit"):
        return
    size, patch = tree["model.architecture.image_size"], tree["model.architecture.patch_size"]
    halvings = len(tree["model.architecture.channel_multipliers"]) - 1 if kind == "unet" else 0
    if size % (patch * 2**halvings):
        stages = [f"{halvings + 1} stages halve the image {halvings} times"] if halvings else []
        reasons = ", after ".join(stages + ([f"patches of {patch}"] if patch > 1 else []))
        yield Fault("model.architecture.image_size", f"must be divisible by {patch * 2**halvings}: {reasons}", size)


def check_beta_range(tree: SettingsReader) -> Iterator[Fault]:
    start, end = tree["model.diffusion.beta_start"], tree["model.diffusion.beta_end"]
    if start >= end:
        yield Fault("model.diffusion.beta_start", f"must be less than model.diffusion.beta_end, {end}", start)


def check_sigma_range(tree: SettingsReader) -> Iterator[Fault]:
    if tree["model.diffusion.type"] != "edm":
        return
    low, high = tree["model.diffusion.sigma_min"], tree["model.diffusion.sigma_max"]
    if low >= high:
        yield Fault("model.diffusion.sigma_min", f"must be less than model.diffusion.sigma_max, {high:g}", low)


def check_num_classes(tree: SettingsReader) -> Iterator[Fault]:
    classes = tree["model.conditioning.num_classes"]
    too_few = classes is None or (isinstance(classes, int) and classes < 1)
    if tree["model.conditioning.type"] == "class" and too_few:
        rule = "required with model.conditioning.type class: the number of classes, at least 1, or auto to count them"
        yield Fault("model.conditioning.num_classes", rule, classes)


def check_num_classes_is_used(tree: SettingsReader) -> Iterator[Fault]:
    if tree["mode"] != "train" or tree["model.conditioning.type"] is not None:
        return
    classes = tree["model.conditioning.num_classes"]
    if classes is not None:
        rule = "has no effect without model.conditioning.type class (command line: conditioning=class); otherwise null"
        yield Fault("model.conditioning.num_classes", rule, classes)
