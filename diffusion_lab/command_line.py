"""Commands that are printed for the user to paste: quoted for the shell and for Hydra's grammar."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
"""Where ``train.py``, ``sample.py`` and ``evaluate.py`` are."""

PLAIN_TEXT = re.compile(r"(?!(?:null|true|false|nan|inf)$|\.\d)[a-z_./][\w./@%+:-]*", re.IGNORECASE | re.ASCII)
"""Text that Hydra reads as itself without quotes."""


def hydra_text(value: object) -> str:
    r"""Return a value as Hydra's command line reads it; the shell's quotes come on top.

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
    """Text in the quotes of Hydra's grammar, with nothing in it read as a reference."""
    text = without_references(text)
    quote = "'" if '"' in text and "'" not in text else '"'
    # The same holds for backslashes before a quote, the closing one included.
    inner = re.sub(rf"(\\*)({quote}|\Z)", lambda found: found[1] * 2 + (f"\\{quote}" if found[2] else ""), text)
    return f"{quote}{inner}{quote}"


def without_references(text: str) -> str:
    r"""Return text whose ``${`` Hydra and OmegaConf read as these two characters.

    >>> without_references("photos ${2024}")
    'photos \\${2024}'
    """
    # A reference is escaped by a backslash, and backslashes before it by another each; elsewhere they are plain.
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
        arguments: Those of the program, not yet quoted for the shell.
    """
    words = program.split() if program.startswith("-m ") else [_from_here(ROOT / program)]
    return shlex.join([interpreter(), *words, *map(str, arguments)])


def interpreter() -> str:
    """Return the word that starts this Python from the current folder: ``python`` where that is the one."""
    found, running = shutil.which("python"), sys.executable
    if not running or (found and _same_environment(found, running)):
        return "python"
    return _from_here(Path(running))


def _same_environment(one: str, other: str) -> bool:
    """Whether two paths start the same Python of the same environment, of which the folder tells."""
    same_folder = os.path.dirname(os.path.abspath(one)) == os.path.dirname(os.path.abspath(other))
    return same_folder and os.path.realpath(one) == os.path.realpath(other)


def _from_here(path: Path) -> str:
    """A path relative to the current folder where it lies inside, else absolute."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
