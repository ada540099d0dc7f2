"""Rules that involve several keys. If a key has a fault of its own, rules that read it report nothing.

A rule is a function called ``check_…`` in one of the modules of RULES.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from diffusion_lab.config import model_rules, path_rules, training_rules
from diffusion_lab.config.schema import CHOICES
from diffusion_lab.faults import Fault
from diffusion_lab.typed_settings.settings_reader import SettingsReader, Unreadable
from diffusion_lab.typed_settings.signatures import check_class
from diffusion_lab.typed_settings.targets import check_targets

Rule = Callable[[SettingsReader], Iterable[Fault]]

RULES: tuple[Rule, ...] = tuple(
    rule
    for module in (model_rules, path_rules, training_rules)
    for name, rule in vars(module).items()
    if name.startswith("check_")
)
IMPORTING_RULES: tuple[Rule, ...] = (check_targets, *map(check_class, CHOICES))
"""Rules that import the classes named by dotted paths, to check their arguments. Never for the content of a checkpoint:
importing runs code."""

RULES_AT_START: tuple[Rule, ...] = (path_rules.missing_image_folders, path_rules.outside_links)
"""Rules about what prevents a run on this machine: missing image folders, links that lead out of the run folder."""


def faults_of_rules(rules: Iterable[Rule], tree: SettingsReader) -> list[Fault]:
    """Return the faults that rules find, except for rules that read a key with a fault of its own."""
    faults: list[Fault] = []
    for rule in rules:
        try:
            faults += rule(tree)
        except Unreadable:
            continue
    return faults
