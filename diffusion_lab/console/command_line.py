"""Commands printed for the user to paste, quoted for the shell and for Hydra's grammar."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]

CONF = next((folder for folder in (PACKAGE / "conf", PACKAGE.parent / "conf") if folder.is_dir()), PACKAGE / "conf")
"""Folder of the groups of settings: in an installed package inside it, in a checkout next to it."""

CHECKOUT = None if CONF.parent == PACKAGE else PACKAGE.parent
"""Folder of ``train.py`` and the other scripts; None if the package was installed from a wheel."""

COMMAND = "diffusion-lab"
"""Console script of an installation: ``diffusion-lab train``."""

COMMANDS = {
    "train": "train a model",
    "sample": "sample images from a checkpoint",
    "evaluate": "evaluate the quality of images",
    "report": "write a page about runs, to look at and compare them",
    "run": "train or sample with the settings of one complete file",
    "checkpoint": "inspect, verify and export checkpoints",
    "features": "compute and list the features by which images are compared",
    "doctor": "examine this machine: hardware, packages, caches, and the fastest settings",
    "migrate": "convert settings files of the older format V1",
}
"""Descriptions by command; each is the module of that name in ``diffusion_lab.commands``."""

SCRIPTS = {
    "train": "train.py",
    "sample": "sample.py",
    "evaluate": "evaluate.py",
    "report": "report.py",
    "migrate": "scripts/migrate_config_v1_to_v2.py",
}
"""Commands that are scripts of a checkout."""

MODULES = {
    "run": "diffusion_lab",
    "checkpoint": "diffusion_lab.checkpoint",
    "features": "diffusion_lab.features",
    "doctor": "diffusion_lab.doctor",
}
"""Commands that are modules for ``python -m`` in a checkout."""

PLAIN_TEXT = re.compile(r"(?!(?:null|true|false|nan|inf)$|\.\d)[a-z_./][\w./@%+:-]*", re.IGNORECASE | re.ASCII)
"""Strings that Hydra reads unchanged without quotes."""


def hydra_text(value: object) -> str:
    r"""Return a value in Hydra's command-line syntax; it still has to be quoted for the shell.

    >>> hydra_text([1.0e-6, None, "a/b.png", "my photos (1)", "null"])
    '[1e-06,null,a/b.png,"my photos (1)","null"]'
    """
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{name}:{hydra_text(entry)}" for name, entry in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(hydra_text, value)) + "]"
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str):
        return json.dumps(value)
    return value if PLAIN_TEXT.fullmatch(value) else _quoted(value)


def _quoted(text: str) -> str:
    """Quote a string for Hydra's grammar, with interpolations escaped."""
    text = without_references(text)
    quote = "'" if '"' in text and "'" not in text else '"'
    # Backslashes before a quote, including the closing one, are escaped as well.
    inner = re.sub(rf"(\\*)({quote}|\Z)", lambda match: match[1] * 2 + (f"\\{quote}" if match[2] else ""), text)
    return f"{quote}{inner}{quote}"


def without_references(text: str) -> str:
    r"""Return a string with interpolations escaped, so that Hydra and OmegaConf read ``${`` literally.

    >>> without_references("photos ${2024}")
    'photos \\${2024}'
    """
    # An interpolation is escaped by a backslash, as is each backslash before it; elsewhere backslashes are literal.
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", text)


def setting(key: str, value: object) -> str:
    """Return the argument ``key=value``.

    >>> setting("ckpt", Path("outputs/größer"))
    'ckpt="outputs/größer"'
    """
    return f"{key}={hydra_text(value)}"


class Way(Enum):
    """Ways to start a command."""

    SCRIPT = "python train.py"
    CONSOLE = "diffusion-lab train"
    MODULE = "python -m diffusion_lab train"


@dataclass(frozen=True)
class Start:
    """How the program was started; printed commands start others in the same way.

    It is passed on to the processes that run the jobs of a sweep, whose own command lines differ.
    """

    way: Way
    console_script: str | None = None
    """Path of the console script, for ``Way.CONSOLE``."""


_start: Start | None = None


def set_start(start: Start | None) -> None:
    """Record how the program was started; None: the default of ``current_start``."""
    global _start
    _start = start


def current_start() -> Start:
    """Return how the program was started.

    By default, and in other people's programs: by the scripts of a checkout, else by the console script, if there is
    one.
    """
    if _start is not None:
        return _start
    if CHECKOUT is not None:
        return Start(Way.SCRIPT)
    script = console_script()
    return Start(Way.MODULE) if script is None else Start(Way.CONSOLE, script)


def console_script() -> str | None:
    """Return the path of the console script of this environment, or None."""
    if _start is not None and _start.console_script is not None:
        return _start.console_script
    return shutil.which(COMMAND, path=os.path.dirname(sys.executable)) if sys.executable else None


def command(name: str, *arguments: str | Path) -> str:
    """Return a shell command that runs one of the project's commands from the current folder.

    Args:
        name: One of ``COMMANDS``.
        arguments: Arguments of the command, not yet quoted for the shell.
    """
    return shlex.join([*_words(name), *map(str, arguments)])


def usage(name: str) -> str:
    """Return how a command is called in help texts: as ``command`` does, with the names that everyone has.

    >>> usage("checkpoint") in ("python -m diffusion_lab.checkpoint", "diffusion-lab checkpoint")
    True
    """
    return shlex.join(_words(name, generic=True))


def _words(name: str, generic: bool = False) -> list[str]:
    start = current_start()
    if start.way is Way.CONSOLE and start.console_script is not None:
        return [COMMAND if generic else _shortest(start.console_script, COMMAND), name]
    python = "python" if generic else interpreter()
    if start.way is Way.MODULE or CHECKOUT is None:
        return [python, "-m", "diffusion_lab", name]
    if name in MODULES:
        return [python, "-m", MODULES[name]]
    return [python, SCRIPTS[name] if generic else _relative_if_inside(CHECKOUT / SCRIPTS[name])]


_typed: tuple[str, tuple[str, ...]] = ("train", ())


def set_typed_command(name: str, arguments: Sequence[str]) -> None:
    """Record the name of the running command, such as ``train``, and the arguments typed after it."""
    global _typed
    _typed = (name, tuple(arguments))


def typed_command() -> tuple[str, tuple[str, ...]]:
    """Return the name of the running command and the arguments typed after it."""
    return _typed


def program_name(name: str) -> str:
    """Return the name of a command in running text: ``train.py`` or ``diffusion-lab train``."""
    is_script = current_start().way is Way.SCRIPT and name in SCRIPTS
    return Path(SCRIPTS[name]).name if is_script else f"{COMMAND} {name}"


def _shortest(path: str, name: str) -> str:
    """Return the name of a program if the shell finds ``path`` by it, else the path."""
    found = shutil.which(name)
    return name if found and _same_environment(found, path) else _relative_if_inside(Path(path).absolute())


def interpreter() -> str:
    """Return the command that starts this Python from the current folder: ``python`` if that is the one."""
    return _shortest(sys.executable, "python") if sys.executable else "python"


def _same_environment(one: str, other: str) -> bool:
    """Return whether two paths start the same Python in the same environment, identified by the folder."""
    same_folder = os.path.dirname(os.path.abspath(one)) == os.path.dirname(os.path.abspath(other))
    return same_folder and os.path.realpath(one) == os.path.realpath(other)


def _relative_if_inside(path: Path) -> str:
    """Return a path relative to the current folder if it is inside, else absolute."""
    cwd = Path.cwd()
    return str(path.relative_to(cwd)) if path.is_relative_to(cwd) else str(path)
