"""Commands printed for the user to paste, quoted for the shell and for Hydra's grammar."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""Folder of ``train.py``, ``sample.py`` and ``evaluate.py``."""

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


def command(program: str, *arguments: str | Path) -> str:
    """Return a shell command that runs one of the project's programs from the current folder.

    Args:
        program: ``train.py``, ``sample.py``, ``evaluate.py``, or ``-m`` and a module.
        arguments: Arguments of the program, not yet quoted for the shell.
    """
    words = program.split() if program.startswith("-m ") else [_relative_if_inside(ROOT / program)]
    return shlex.join([interpreter(), *words, *map(str, arguments)])


def interpreter() -> str:
    """Return the command that starts this Python from the current folder: ``python`` if that is the one."""
    python, running = shutil.which("python"), sys.executable
    if not running or (python and _same_environment(python, running)):
        return "python"
    return _relative_if_inside(Path(running))


def _same_environment(one: str, other: str) -> bool:
    """Return whether two paths start the same Python in the same environment, identified by the folder."""
    same_folder = os.path.dirname(os.path.abspath(one)) == os.path.dirname(os.path.abspath(other))
    return same_folder and os.path.realpath(one) == os.path.realpath(other)


def _relative_if_inside(path: Path) -> str:
    """Return a path relative to the current folder if it is inside, else absolute."""
    cwd = Path.cwd()
    return str(path.relative_to(cwd)) if path.is_relative_to(cwd) else str(path)
