"""The console command ``diffusion-lab COMMAND``, also started by ``python -m diffusion_lab COMMAND``.

``python -m diffusion_lab FILE.yaml [key=value ...]`` is short for the command ``run``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from diffusion_lab.console.command_line import COMMAND, COMMANDS, Start, Way, set_start, usage
from diffusion_lab.console.terminal import printable, quiet_broken_pipe
from diffusion_lab.faults import closest
from diffusion_lab.runtime.exit_codes import EXIT_CODE
from diffusion_lab.version import __version__

HELP, VERSION, COMPLETION = ("--help", "-h"), "--version", ("--shell-completion", "-sc")
OPTIONS = (*HELP, VERSION, *COMPLETION)

TEXT = """usage: {program} COMMAND ...

Train class-conditional and unconditional image diffusion models, sample from them, and compare.

commands:
{commands}

{program} COMMAND --help describes each; {program} --version prints the version.
{program} FILE.yaml is short for {program} run FILE.yaml.
"""


@quiet_broken_pipe()
def main(arguments: Sequence[str] | None = None) -> int | None:
    """Run a command line and return the exit code; None counts as 0.

    Args:
        arguments: The command line; default: that of this process.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    is_file_alone = not {*words[:1]} <= {*COMMANDS, *OPTIONS} and any(map(_is_file, words))
    if arguments is None:
        set_start(_start(sys.argv[0], is_file_alone))
    first = words[0] if words else None
    if is_file_alone:
        return _run("run", words)
    if first in COMMANDS:
        return _run(first, words[1:])
    if first in COMPLETION:
        return _run("train", words)
    if first == VERSION:
        print(f"{COMMAND} {__version__}")
        return 0
    if first in HELP:
        print(_help(), end="")
        return 0
    print(printable(_unknown(first)), file=sys.stderr)
    return EXIT_CODE


def _start(program: str, is_file_alone: bool) -> Start | None:
    """Return how the process was started; None, the default, by ``python -m diffusion_lab FILE.yaml``."""
    if Path(program).name != "__main__.py":
        return Start(Way.CONSOLE, str(Path(program).absolute()))
    return None if is_file_alone else Start(Way.MODULE)


def _run(name: str, arguments: Sequence[str]) -> int | None:
    code: int | None = import_module(f"diffusion_lab.commands.{name}").main(arguments)
    return code


def _is_file(argument: str) -> bool:
    """Return whether an argument is a settings file, even one that does not exist."""
    return argument.endswith((".yaml", ".yml")) or Path(argument).is_file()


def _help() -> str:
    program = usage("run").removesuffix(" run")
    width = max(map(len, COMMANDS)) + 2
    lines = "\n".join(f"  {name:{width}}{description}" for name, description in COMMANDS.items())
    return TEXT.format(program=program, commands=lines)


def _unknown(name: str | None) -> str:
    """Return the message for a command line that names no command."""
    listed = ", ".join(COMMANDS)
    if name is None:
        return f"Error: a command is missing; the commands are {listed}."
    nearest = closest(name, COMMANDS)
    suggestion = f" Did you mean {nearest!r}?" if nearest else ""
    return f"Error: {name!r} is not a command; the commands are {listed}.{suggestion}"


if __name__ == "__main__":
    sys.exit(main())
