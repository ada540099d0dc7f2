"""Findings: one fact per line, with its status and the commands that remedy it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from diffusion_lab.console.command_line import CHECKOUT, interpreter
from diffusion_lab.console.messages import explain


class Status(Enum):
    """Judgement of a fact; only a problem means that something needed does not work."""

    OK = "ok"
    FACT = "fact"
    ADVICE = "advice"
    PROBLEM = "problem"


@dataclass(frozen=True)
class Finding:
    """One fact.

    Args:
        status: Its judgement.
        name: What it is about, at most 16 characters.
        text: The fact, without a full stop.
        commands: Shell commands that remedy it, or that do what the text offers.
    """

    status: Status
    name: str
    text: str
    commands: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {"status": self.status.value, "name": self.name, "text": self.text, "commands": list(self.commands)}


def ok(name: str, text: str) -> Finding:
    """Return a fact that is as it should be."""
    return Finding(Status.OK, name, text)


def fact(name: str, text: str, *commands: str) -> Finding:
    """Return a fact without judgement."""
    return Finding(Status.FACT, name, text, commands)


def advice(name: str, text: str, *commands: str) -> Finding:
    """Return a fact that could be better."""
    return Finding(Status.ADVICE, name, text, commands)


def problem(name: str, text: str, *commands: str) -> Finding:
    """Return a fact because of which something needed does not work."""
    return Finding(Status.PROBLEM, name, text, commands)


def examined(name: str, check: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """Return what a check finds; if it fails itself, that is the finding, and the other checks go on."""
    found: list[Finding] = []
    try:
        for finding in check():
            found.append(finding)  # kept if a later one fails
    except ImportError as error:
        found.append(problem(name, f"cannot be examined: {_first_line(error)}", pip_install()))
    except Exception as error:  # a library in an unexpected state can raise anything
        found.append(advice(name, f"cannot be examined: {type(error).__name__}: {_first_line(error)}"))
    return found


def _first_line(error: BaseException) -> str:
    return (explain(error).strip().splitlines() or [type(error).__name__])[0]


def pip_install(extra: str | None = None, requirements: Iterable[str] = (), checkout: Path | None = CHECKOUT) -> str:
    """Return the command that installs the project, with the exact versions of a checkout, or one of its extras.

    Extras are installed in the latest supported versions: those of Ray's launcher contradict ``constraints.txt``.

    Args:
        extra: The extra; None for what the project needs.
        requirements: Requirements to install outside a checkout, where the project may be on no index.
        checkout: Folder of the checkout; None in an installed package.
    """
    pip = [interpreter(), "-m", "pip", "install"]
    if checkout is None:
        return shlex.join([*pip, *(requirements or ("diffusion-lab",))])
    here = checkout == Path.cwd()
    folder = "." if here else str(checkout)
    target = f"{folder}[{extra}]" if extra else folder
    constraints = "constraints.txt" if here else str(checkout / "constraints.txt")
    return shlex.join([*pip, "-e", target, *([] if extra else ["-c", constraints])])


def shown_path(path: Path) -> str:
    """Return a path quoted for the shell, with ``~`` for the home folder, which names the user."""
    try:
        inside = path.relative_to(Path.home())
    except (ValueError, RuntimeError):
        return shlex.quote(str(path))
    return "~" if str(inside) == "." else f"~/{shlex.quote(str(inside))}"


def size(number: float) -> str:
    """Return a number of bytes as text.

    >>> size(0), size(2_340_000), size(39e9)
    ('0 B', '2.3 MB', '39 GB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if number < 999.5:
            return f"{number:.2g} {unit}" if 0 < number < 9.95 and unit != "B" else f"{number:.0f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"


def set_variables(names: Iterable[str]) -> list[str]:
    """Return ``NAME=value`` for each of these environment variables that is set."""
    return [f"{name}={os.environ[name]}" for name in names if os.environ.get(name)]
