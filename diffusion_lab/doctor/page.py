"""Findings as text: for terminals of 80 columns and, without colors, for pipes and bug reports."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from diffusion_lab.console.terminal import on_one_line, printable
from diffusion_lab.doctor.findings import Finding, Status

WIDTH, NAME_WIDTH = 80, 18
MARKS = {Status.OK: "✓", Status.FACT: "·", Status.ADVICE: "!", Status.PROBLEM: "✗"}
ASCII_MARKS = {Status.OK: "+", Status.FACT: "-", Status.ADVICE: "!", Status.PROBLEM: "X"}
COLORS = {Status.OK: "32", Status.FACT: "2", Status.ADVICE: "33", Status.PROBLEM: "1;31"}


@dataclass(frozen=True)
class Style:
    """How findings are printed.

    Args:
        color: Whether to use colors.
        encoding: Encoding of the stream; marks and signs that it lacks are replaced.
    """

    color: bool = False
    encoding: str = "utf-8"

    def encodable(self, text: str) -> str:
        """Return a text that the stream can encode."""
        plain = text.replace("×", "x").replace("–", "-")
        try:
            text.encode(self.encoding)
        except UnicodeEncodeError:
            return plain.encode(self.encoding, "replace").decode(self.encoding)
        return text

    def colored(self, text: str, code: str) -> str:
        """Return a text in a color, if colors are used."""
        return f"\x1b[{code}m{text}\x1b[0m" if self.color else text

    def mark(self, status: Status) -> str:
        """Return the mark of a status."""
        mark = MARKS[status]
        return self.colored(mark if self.encodable(mark) == mark else ASCII_MARKS[status], COLORS[status])


def heading(title: str, style: Style) -> str:
    """Return the line above a section."""
    return style.colored(style.encodable(title), "1")


def lines_of(finding: Finding, style: Style) -> Iterator[str]:
    """Yield the lines of a finding; commands are on lines of their own, unbroken, to be pasted."""
    text = style.encodable(on_one_line(finding.text))
    indent = " " * (NAME_WIDTH + 5)
    first, *others = textwrap.wrap(text, WIDTH - len(indent), break_long_words=False, break_on_hyphens=False) or [""]
    yield f"  {style.mark(finding.status)} {on_one_line(finding.name):{NAME_WIDTH}} {first}"
    yield from (f"{indent}{line}" for line in others)
    yield from (f"      {style.encodable(printable(command))}" for command in finding.commands)


def summary(findings: Sequence[Finding], style: Style) -> str:
    """Return the last line."""
    problems = sum(finding.status is Status.PROBLEM for finding in findings)
    advised = sum(finding.status is Status.ADVICE for finding in findings)
    notes = f"{advised} {'line' if advised == 1 else 'lines'} with advice (!)" if advised else ""
    if not problems:
        return "Everything that is needed works" + (f"; {notes}." if notes else ".")
    text = f"{problems} {'problem' if problems == 1 else 'problems'} ({style.encodable('✗')})"
    return style.colored(text, COLORS[Status.PROBLEM]) + (f", {notes}." if notes else ".")
