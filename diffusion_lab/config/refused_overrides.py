"""Arguments that Hydra refuses while it composes the settings: each with its reason and what to type instead."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from diffusion_lab.config.faults import CommandError

OF_TRAINING = ("experiment", "data", "training", "logger")
"""Sections that only ``train.py`` reads."""

READ_BY = {"evaluate.py": {"data", "evaluation"}}
"""Sections that a program does read, though not the groups of that name."""

HYDRAS_OWN = "`python train.py --cfg hydra` shows Hydra's settings with their values"

NEEDS_NO_PLUS = "{key} is chosen already: to choose another file, type {key}={value}, once and without +"

REASONS = (
    (r"Multiple values for (?P<key>[\w/@.]+)\. .*'override [^:]+: (?P<value>[^']*)'", NEEDS_NO_PLUS),
    (r"(?P<key>[\w/@.]+) appears more than once in the final defaults list", NEEDS_NO_PLUS),
    (
        r"force-add of config groups is not supported: '\+\+(?P<choice>[^']*)'",
        "++{choice}: a file of a group is chosen without +: type {choice}",
    ),
    (
        r"Could not override '(?P<key>[\w/]+)@(?P<place>[\w.]+)'",
        "{key}@{place}: no file of {key} is chosen for {place}: to choose the file of {key}, type {key}={value}",
    ),
    (
        r"Ambiguous value for argument '(?P<key>[^'=]+)=(?P<value>[^']*)'",
        "{key}={value} gives several values: to run one job with each, add -m; to give a list, type {key}=[{value}] "
        "in quotes for the shell",
    ),
    (
        r"Could not delete '(?P<choice>[^']+)'\. No match in the defaults list",
        "~{choice} deletes nothing, since that is not chosen: leave it out",
    ),
    (
        r"Could not delete from config\. The value of '(?P<key>[^']+)' is (?P<value>.*) and not ",
        "~{key}=… deletes nothing, since the value is {value}: type ~{key}",
    ),
    (
        r"Could not delete from config\. '(?P<key>[^']+)' does not exist",
        "~{key} deletes nothing, since there is no such key: leave it out",
    ),
    (
        r"Could not append to config\. An item is already at '(?P<key>[^']+)'.*remove \+ prefix: '(?P<choice>[^']*)'",
        "+{choice}: {key} has a value already: type {choice}, without +",
    ),
)
"""What Hydra says of an argument that it refuses, and what is said instead."""


def explain_refused(error: Exception, overrides: Iterable[str]) -> str | None:
    """Return why Hydra refuses an override and what to type instead; None for a reason that is not known here.

    Args:
        error: What Hydra raised.
        overrides: The arguments ``key=value`` of the command line.
    """
    text = str(error).strip()
    merging = re.match(r"Error merging override (?P<argument>.*)", text, re.DOTALL)
    if merging:
        cause = (str(error.__cause__ or "").strip().splitlines() or ["it does not fit"])[0].rstrip(".")
        advice = HYDRAS_OWN if merging["argument"].lstrip("+~").startswith("hydra.") else "Correct it, or leave it out"
        return f"{merging['argument']}: {cause}. {advice}"
    for pattern, said in REASONS:
        found = re.search(pattern, text, re.DOTALL)
        if found:
            parts = found.groupdict()
            typed = (override.lstrip("+").partition("=") for override in overrides)
            chosen = {key.partition("@")[0]: value for key, equals, value in typed if equals}
            return said.format_map({"value": chosen.get(parts.get("key", ""), "NAME")} | parts)
    return None


def refuse_unread(overrides: Sequence[str], groups_of_training: Iterable[str], program: str = "sample.py") -> None:
    """Refuse arguments of ``sample.py`` or ``evaluate.py`` that only ``train.py`` reads.

    Args:
        overrides: The arguments ``key=value`` of the command line.
        groups_of_training: The groups of settings that the program does not choose from.
        program: The program.

    Raises:
        CommandError: There are such arguments.
    """
    sections = {*OF_TRAINING, *groups_of_training} - READ_BY.get(program, set())
    groups = set(groups_of_training)
    found = []
    for override in overrides:
        key = override.lstrip("+~").partition("=")[0]
        if re.split(r"[.@/]", key)[0] in sections or key.partition("@")[0] in groups:
            found.append(override)
    if found:
        count = "1 argument is" if len(found) == 1 else f"{len(found)} arguments are"
        told = f"{count} read by train.py alone; {program} takes what the model is from the checkpoint. Leave out:"
        raise CommandError("\n  ".join([told, *found]))
