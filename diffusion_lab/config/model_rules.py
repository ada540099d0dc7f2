"""Rules that involve several keys of ``model``: its network, its noise process, its classes."""

from __future__ import annotations

from collections.abc import Iterator

from diffusion_lab.config.model_section import DEFAULT_PROCESS, PROCESS_OPTIONS
from diffusion_lab.config.settings_reader import SettingsReader
from diffusion_lab.faults import Fault


def check_attention_flags(tree: SettingsReader) -> Iterator[Fault]:
    if tree["model.architecture.type"] == "dit":
        return  # has its own rule
    stages = len(tree["model.architecture.channel_multipliers"])
    flags = tree["model.architecture.use_attention"]
    if len(flags) != stages:
        rule = f"must have one entry per stage: {stages}, as in model.architecture.channel_multipliers"
        yield Fault("model.architecture.use_attention", rule, flags)


def check_dit_stages(tree: SettingsReader) -> Iterator[Fault]:
    if tree["model.architecture.type"] != "dit":
        return
    multipliers = tree["model.architecture.channel_multipliers"]
    flags = tree["model.architecture.use_attention"]
    requirement = "with model.architecture.type dit, which has one stage (command line: model=dit_tiny or another dit)"
    if len(multipliers) != 1:
        yield Fault("model.architecture.channel_multipliers", f"must have one entry {requirement}", multipliers)
    if list(flags) != [True]:
        yield Fault("model.architecture.use_attention", f"must be [true] {requirement}", flags)


def check_dit_channels(tree: SettingsReader) -> Iterator[Fault]:
    channels, multipliers = tree["model.architecture.model_channels"], tree["model.architecture.channel_multipliers"]
    if tree["model.architecture.type"] == "dit" and channels * multipliers[0] % 4:
        rule = f"times the multiplier, {multipliers[0]}, must be divisible by 4 with model.architecture.type dit: "
        yield Fault("model.architecture.model_channels", rule + "a sine and a cosine each for row and column", channels)


def check_image_size(tree: SettingsReader) -> Iterator[Fault]:
    size, patch = tree["model.architecture.image_size"], tree["model.architecture.patch_size"]
    halvings = len(tree["model.architecture.channel_multipliers"]) - 1
    if size % (patch * 2**halvings):
        stages = [f"{halvings + 1} stages halve the image {halvings} times"] if halvings else []
        reasons = ", after ".join(stages + ([f"patches of {patch}"] if patch > 1 else []))
        yield Fault("model.architecture.image_size", f"must be divisible by {patch * 2**halvings}: {reasons}", size)


def check_beta_range(tree: SettingsReader) -> Iterator[Fault]:
    start, end = tree["model.diffusion.beta_start"], tree["model.diffusion.beta_end"]
    if start >= end:
        yield Fault("model.diffusion.beta_start", f"must be less than model.diffusion.beta_end, {end}", start)


def check_sigma_range(tree: SettingsReader) -> Iterator[Fault]:
    low, high = tree["model.diffusion.sigma_min"], tree["model.diffusion.sigma_max"]
    if low >= high:
        yield Fault("model.diffusion.sigma_min", f"must be less than model.diffusion.sigma_max, {high:g}", low)


def check_process_keys(tree: SettingsReader) -> Iterator[Fault]:
    kind = tree["model.diffusion.type"]
    for name, value in tree.section("model.diffusion").items():
        owners = [owner for owner, names in PROCESS_OPTIONS.items() if name in names]
        if owners and kind in PROCESS_OPTIONS and kind not in owners and value != DEFAULT_PROCESS[name]:
            rule = f"belongs to type {' or '.join(owners)}, not to {kind}; leave it out"
            yield Fault(f"model.diffusion.{name}", rule, value)


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
