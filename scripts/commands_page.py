"""docs/commands.md, the reference of the commands and their options, from their parsers (`make docs`)."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from diffusion_lab.console.command_line import COMMAND, COMMANDS, MODULES, SCRIPTS
from scripts.editor_schema import short_names

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "commands.md"

COMPOSED = ("train", "sample", "evaluate")
"""Commands whose arguments are settings, composed by Hydra."""

INTRODUCTION = """\
# Commands

<!-- Made by `make docs` from the parsers in diffusion_lab/commands/: change those, not this page. -->

`diffusion-lab COMMAND` is the command of an installation, and `diffusion-lab COMMAND --help` describes it. A checkout
has scripts and modules that do the same; how the two relate is described in [Settings](settings.md#commands), exit
codes in [Reliability](reliability.md#stopping-and-resuming).

{commands}

## Settings as arguments

The arguments of `train`, `sample` and `evaluate` are settings: `GROUP=NAME` selects a file of `conf/GROUP/`,
`key=value` sets one value ([all keys](configuration.md)). These options come before or after them, in any order:

{options}
"""

OPTIONS = (
    ("--help", "groups, short names, common commands"),
    (
        "--cfg job",
        "print the resulting settings, run nothing; `--resolve` replaces references, `-p data` prints one section",
    ),
    ("-m, --multirun", "run every combination of listed values, `key=1,2,3` ([sweeps](sweeps.md))"),
    ("--config-dir DIR", "folder with your own files of the groups, searched before `conf/`"),
    ("--info defaults", "print which files are used"),
    ("--shell-completion install=bash", "print the code that completes groups, keys and values with TAB"),
    ("--hydra-help", "Hydra's own options"),
)


def page() -> str:
    """Return the content of the page."""
    rows = [f"| [`{COMMAND} {name}`](#{name}) | `{_in_checkout(name)}` | {text} |" for name, text in COMMANDS.items()]
    commands = "\n".join(["| installed | in a checkout | |", "|---|---|---|", *rows])
    options = "\n".join(["| option | meaning |", "|---|---|", *(f"| `{name}` | {text} |" for name, text in OPTIONS)])
    sections = [line for name in COMMANDS for line in _section(name)]
    return INTRODUCTION.format(commands=commands, options=options) + "\n" + "\n".join(sections)


def _in_checkout(name: str) -> str:
    return f"python {SCRIPTS[name]}" if name in SCRIPTS else f"python -m {MODULES[name]}"


def _section(name: str) -> Iterator[str]:
    """Yield the lines about a command, each paragraph with the empty line after it."""
    text = COMMANDS[name]
    yield f"## {name}\n\n{text[0].upper()}{text[1:]}.\n"
    if name in COMPOSED:
        yield from _short_names(name)
    else:
        yield from _parser(import_module(f"diffusion_lab.commands.{name}").create_parser(), f"{COMMAND} {name}")


def _short_names(name: str) -> Iterator[str]:
    names = short_names(ROOT / "conf" / f"{name}.yaml")
    yield f"`{COMMAND} {name} [GROUP=NAME …] [key=value …]`, with these short names for common keys:\n"
    yield "| short name | key |\n|---|---|"
    yield "\n".join(f"| `{short}` | `{key}` |" for short, key in names.items()) + "\n"


def _parser(parser: argparse.ArgumentParser, command: str) -> Iterator[str]:
    """Yield usage and options of a command, or those of each of its subcommands."""
    actions = [action for action in parser._actions if not isinstance(action, argparse._HelpAction)]
    for action in actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for name, subparser in action.choices.items():
                yield f"**`{command} {name}`:** {helps[name]}.\n"
                yield from _parser(subparser, f"{command} {name}")
            return
    yield f"`{' '.join([command, *map(_in_usage, actions)])}`\n"
    if actions:
        yield "| argument | meaning |\n|---|---|"
        yield "\n".join(f"| `{_name(action)}` | {_meaning(action)} |" for action in actions) + "\n"


def _in_usage(action: argparse.Action) -> str:
    name = " | ".join(action.option_strings) if isinstance(action, argparse.BooleanOptionalAction) else None
    word = " ".join([name, *_value(action)] if name else [*action.option_strings[-1:], *_value(action)])
    return word if action.required and action.nargs != "*" else f"[{word}]"


def _name(action: argparse.Action) -> str:
    return " ".join([", ".join(action.option_strings), *_value(action)]).strip()


def _value(action: argparse.Action) -> list[str]:
    """Return the placeholder of the value that an argument takes; nothing for a flag."""
    if action.nargs == 0:
        return []
    choices = "{" + ",".join(map(str, action.choices)) + "}" if action.choices else None
    shown = action.metavar if isinstance(action.metavar, str) else choices or action.dest
    if action.option_strings:
        shown = shown.upper() if action.metavar is None and choices is None else shown
    else:
        shown = shown.upper() if shown.islower() and "=" not in shown else shown
    return [f"{shown} …" if action.nargs in ("*", "+") else shown]


def _meaning(action: argparse.Action) -> str:
    return (action.help or "").replace("%(default)s", str(action.default)).replace("|", r"\|")
