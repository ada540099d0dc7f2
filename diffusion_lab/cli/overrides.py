"""Explanations of ``key=value`` arguments that Hydra's grammar cannot parse, with the quotes that they need."""

from __future__ import annotations

import contextlib
import math
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob, Override, RangeSweep
from hydra.errors import HydraException

from diffusion_lab.console.command_line import setting
from diffusion_lab.faults import CommandError
from diffusion_lab.sweeps.jobs import ONE_AT_A_TIME

KEY = re.compile(r"[+~]{0,2}[\w./@$-]+", re.ASCII)

NO_NAME = "must name a file in conf/"
NO_PAIR = "must be key=value, +key=value or ~key"

GRAMMAR = (
    "Hydra interprets brackets, braces, parentheses, commas, colons, = and quotes in a value, and accepts non-ASCII "
    "letters only in quotes: a string with any of them needs two pairs of quotes, one for Hydra and one for the shell"
)


MAX_JOBS = 100_000
MAX_DIGITS, MAX_BRACKETS = 100, 50
TOO_MANY_DIGITS = re.compile(rf"\d{{{MAX_DIGITS + 1}}}")


def explain_syntax_error(arguments: Sequence[str], conf: Path | None = None) -> str | None:
    """Return which arguments cannot be parsed, and how to type them; None if all can be parsed.

    Args:
        arguments: Arguments of the command line, as passed by the shell.
        conf: Folder of the settings; invalid choices of its groups are explained as well.
    """
    lines = list(_explanations(arguments, conf))
    if not lines:
        return None
    count = "1 argument cannot be parsed" if len(lines) == 1 else f"{len(lines)} arguments cannot be parsed"
    why = "" if all(line.endswith(NO_PAIR) or NO_NAME in line for line in lines) else f"\n{GRAMMAR}."
    return "\n  ".join([f"{count}:", *lines]) + why


def refuse_excess(arguments: Sequence[str]) -> None:
    """Refuse arguments on which Hydra's parser fails with a traceback.

    Args:
        arguments: Arguments of the command line.

    Raises:
        ValueError: One contains a number of more than ``MAX_DIGITS`` digits, or more than ``MAX_BRACKETS`` nested
            brackets.
    """
    for argument in arguments:
        key = argument.partition("=")[0][:80]
        if TOO_MANY_DIGITS.search(argument):
            raise ValueError(f"{key} has a number of more than {MAX_DIGITS} digits: use a shorter one")
        level = deepest = 0
        for bracket in re.findall(r"[\[\](){}]", argument):
            level += 1 if bracket in "[({" else -1
            deepest = max(deepest, level)
        if deepest > MAX_BRACKETS:
            raise ValueError(f"{key} has more than {MAX_BRACKETS} nested brackets: use fewer")


def check_sweep_size(arguments: Sequence[str]) -> None:
    """Refuse sweeps with too many jobs, since all are listed in memory before the first one starts.

    Args:
        arguments: Arguments of the command line. With a sweeper that searches, a range is not a list of jobs.

    Raises:
        ValueError: The values make more than ``MAX_JOBS`` combinations.
    """
    if _searches(arguments):
        return
    jobs = 1
    for argument, override in _readable(arguments):
        jobs *= max(_number_of_values(override.value()), 1)
        if jobs > MAX_JOBS:
            key = argument.partition("=")[0]
            raise ValueError(
                f"{key} makes this a sweep of {jobs:,} jobs, more than the limit of {MAX_JOBS:,}: use fewer values"
            )


def check_separate_folders(arguments: Sequence[str]) -> None:
    """Refuse a run folder shared by several jobs, of which all but the first would fail or overwrite the others.

    Args:
        arguments: Arguments of the command line of a sweep.

    Raises:
        CommandError: ``output.base_dir`` is the same for all jobs.
    """
    overrides = [override for _, override in _readable(arguments)]
    named = [override for override in overrides if override.key_or_group == "output.base_dir"]
    several = _searches(arguments) or any(override.is_sweep_override() for override in overrides)
    if named and several and not named[-1].is_sweep_override() and "${" not in str(named[-1].value()):
        raise CommandError(
            f"output.base_dir = {named[-1].value()!r} would be the folder of each job of the sweep: name the folder "
            "that holds those of the jobs with hydra.sweep.dir"
        )


def check_trains(arguments: Sequence[str]) -> None:
    """Refuse a sweep of previews.

    Args:
        arguments: Arguments of the command line of a sweep.

    Raises:
        CommandError: It asks for ``preview`` or ``tune``.
    """
    for _, override in _readable(arguments):
        key = override.key_or_group
        if (key == "preview" or key.partition(".")[0] == "tune") and override.value() is not False:
            raise CommandError(ONE_AT_A_TIME)


def _searches(arguments: Sequence[str]) -> bool:
    """Return whether the sweeper chooses the values itself."""
    return any(argument.startswith("hydra/sweeper=") for argument in arguments)


def _readable(arguments: Sequence[str]) -> Iterator[tuple[str, Override]]:
    """Yield the arguments that can be parsed; the others are explained when they are composed."""
    parser = OverridesParser.create()
    for argument in arguments:
        with contextlib.suppress(HydraException):
            yield argument, parser.parse_override(argument)


def check_sweep_not_empty(arguments: Sequence[str], folders: Sequence[Path]) -> None:
    """Refuse empty sweeps, for which Hydra would run no job without a message.

    Args:
        arguments: Arguments of the command line. With a sweeper that searches, a range is not a list of jobs.
        folders: Folders with the files of the groups: ``conf``, and that of ``--config-dir``.

    Raises:
        CommandError: A range is empty, or a ``glob`` matches no file of a group.
    """
    if _searches(arguments):
        return
    for argument, override in _readable(arguments):
        value = override.value()
        if isinstance(value, RangeSweep) and _number_of_values(value) == 0:
            raise CommandError(f"{argument} is empty, so the sweep would have no job: start must be before stop")
        group = override.key_or_group
        if isinstance(value, Glob) and not group.startswith("hydra/"):
            files = sorted({file.stem for folder in folders for file in folder.glob(f"{group}/*.yaml")})
            if not files:
                raise CommandError(
                    f"{argument}: glob selects files of a group, and {group} is not a group: list the values"
                )
            if not value.filter(files):
                raise CommandError(
                    f"{argument} matches no file, so the sweep would have no job; the files are {', '.join(files)}"
                )


def _number_of_values(value: object) -> int:
    if isinstance(value, RangeSweep) and value.start is not None and value.stop is not None and value.step:
        return math.ceil(max((value.stop - value.start) / value.step, 0))
    return len(value.list) if isinstance(value, ChoiceSweep) else 1


def _explanations(arguments: Sequence[str], conf: Path | None) -> Iterator[str]:
    parser = OverridesParser.create()
    for index, argument in enumerate(arguments):
        try:
            override = parser.parse_override(argument)
            key = override.key_or_group
            if not key:
                yield f"{argument}: {NO_PAIR}"
            elif conf and "." not in key and (conf / key).is_dir() and not _names_files(override):
                files = sorted(file.stem for file in (conf / key).glob("*.yaml"))
                yield f"{argument}: {NO_NAME}{key}/: {', '.join(files)}"
        except HydraException as error:
            yield f"{argument}: {_how_to_type(arguments[:index], argument) or _hydra_message(error)}"


def _names_files(override: Override) -> bool:
    """Return whether an override selects one or more files of a group, or deletes the choice."""
    return override.is_delete() or override.is_sweep_override() or isinstance(override.value(), str | list)


def _how_to_type(before: Sequence[str], argument: str) -> str | None:
    """Return the argument with quotes; None if it is more likely a list or a section."""
    key, equals, value = argument.partition("=")
    if not equals:
        if before and "=" in before[-1]:  # the rest of a value that has spaces
            key, _, begun = before[-1].partition("=")
            return f"has no =; if it belongs to the argument before it, type {_typed(key, f'{begun} {argument}')}"
        return NO_PAIR
    if not KEY.fullmatch(key) or value[:1] in ("[", "{"):
        return None
    return f"as a string, type {_typed(key, value)}"


def _typed(key: str, value: str) -> str:
    bare = value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'" else value
    return shlex.quote(setting(key, bare))


def _hydra_message(error: HydraException) -> str:
    """Return the reason in Hydra's message, without the line that repeats the argument and the link."""
    lines = [line for line in str(error).splitlines() if line and not line.startswith(("See https", "Error parsing"))]
    return " ".join(lines)
