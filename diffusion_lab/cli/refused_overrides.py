"""Explanations of arguments that Hydra rejects while it composes the settings, with what to type instead."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from diffusion_lab.console.command_line import command, program_name
from diffusion_lab.faults import CommandError

TRAINING_SECTIONS = ("experiment", "data", "training", "logger")
"""Sections that only training reads."""

READ_BY = {"evaluate": {"data", "evaluation"}}
"""Sections that a command does read, although not the groups of that name."""

ALREADY_CHOSEN = "{key} is already chosen: to choose another file, type {key}={value} once, without +"

REASONS = (
    (r"Multiple values for (?P<key>[\w/@.]+)\. .*'override [^:]+: (?P<value>[^']*)'", ALREADY_CHOSEN),
    (r"(?P<key>[\w/@.]+) appears more than once in the final defaults list", ALREADY_CHOSEN),
    (
        r"force-add of config groups is not supported: '\+\+(?P<choice>[^']*)'",
        "++{choice}: files of groups are chosen without +: type {choice}",
    ),
    (
        r"Could not override '(?P<key>[\w/]+)@(?P<place>[\w.]+)'",
        "{key}@{place}: no file of {key} is chosen for {place}: to choose the file of {key}, type {key}={value}",
    ),
    (
        r"Ambiguous value for argument '(?P<key>[^'=]+)=(?P<value>[^']*)'",
        "{key}={value} has several values: to run one job for each, add -m; for a list, type {key}=[{value}], "
        "quoted for the shell",
    ),
    (
        r"Could not delete '(?P<choice>[^']+)'\. No match in the defaults list",
        "~{choice} deletes nothing, since it is not chosen: remove it",
    ),
    (
        r"Could not delete from config\. The value of '(?P<key>[^']+)' is (?P<value>.*) and not ",
        "~{key}=… deletes nothing, since the value is {value}: type ~{key}",
    ),
    (
        r"Could not delete from config\. '(?P<key>[^']+)' does not exist",
        "~{key} deletes nothing, since there is no such key: remove it",
    ),
    (
        r"Could not append to config\. An item is already at '(?P<key>[^']+)'.*remove \+ prefix: '(?P<choice>[^']*)'",
        "+{choice}: {key} already has a value: type {choice}, without +",
    ),
)
"""Patterns of Hydra's messages about rejected arguments, each with the message shown instead."""


def explain_refused(error: Exception, overrides: Iterable[str]) -> str | None:
    """Return why Hydra rejects an override and what to type instead; None for an unknown reason.

    Args:
        error: Exception raised by Hydra.
        overrides: Arguments ``key=value`` of the command line.
    """
    text = str(error).strip()
    merging = re.match(r"Error merging override (?P<argument>.*)", text, re.DOTALL)
    if merging:
        cause = (str(error.__cause__ or "").strip().splitlines() or ["it does not fit"])[0].rstrip(".")
        advice = hydra_settings() if merging["argument"].lstrip("+~").startswith("hydra.") else "Correct or remove it"
        return f"{merging['argument']}: {cause}. {advice}"
    for pattern, message in REASONS:
        match = re.search(pattern, text, re.DOTALL)
        if match:
            parts = match.groupdict()
            typed = (override.lstrip("+").partition("=") for override in overrides)
            chosen = {key.partition("@")[0]: value for key, equals, value in typed if equals}
            return message.format_map({"value": chosen.get(parts.get("key", ""), "NAME")} | parts)
    return None


def hydra_settings() -> str:
    """Return advice that names a command which shows Hydra's settings."""
    return f"`{command('train', '--cfg', 'hydra')}` shows Hydra's settings and their values"


def refuse_unread(overrides: Sequence[str], groups_of_training: Iterable[str], name: str = "sample") -> None:
    """Refuse arguments of the commands ``sample`` and ``evaluate`` that only ``train`` reads.

    Args:
        overrides: Arguments ``key=value`` of the command line.
        groups_of_training: Groups of settings that the command does not use.
        name: Name of the command.

    Raises:
        CommandError: There are such arguments.
    """
    sections = {*TRAINING_SECTIONS, *groups_of_training} - READ_BY.get(name, set())
    groups = set(groups_of_training)
    refused = []
    for override in overrides:
        key = override.lstrip("+~").partition("=")[0]
        if re.split(r"[.@/]", key)[0] in sections or key.partition("@")[0] in groups:
            refused.append(override)
    if refused:
        count = "1 argument is" if len(refused) == 1 else f"{len(refused)} arguments are"
        message = (
            f"{count} only read by {program_name('train')}; {program_name(name)} takes the model from the checkpoint"
        )
        raise CommandError("\n  ".join([f"{message}. Remove:", *refused]))
