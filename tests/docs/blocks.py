"""The code blocks of README and docs, and the commands in them."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "examples/README.md")]
PAGES += sorted((ROOT / "docs").rglob("*.md"))
FENCE = re.compile(r"^[ >]*(?:```|~~~)", re.MULTILINE)
"""Begin or end of a block, also of one that `blocks` does not find."""

PROGRAMS = ("python", "diffusion-lab", "make", "git", "pip", "wandb", "tensorboard", "torchrun")


@dataclass(frozen=True)
class Block:
    """Fenced block: its page, the line it starts on, its language and its text."""

    page: str
    line: int
    language: str
    text: str

    @property
    def location(self) -> str:
        """Page and line."""
        return f"{self.page}:{self.line}"

    @property
    def is_transcript(self) -> bool:
        """Return whether it shows a command after ``$`` and its output."""
        return self.text.startswith("$ ")

    @property
    def adds(self) -> str | None:
        """File whose content a block of Python is, named on its first line; None for other blocks."""
        first_line = re.match(r"# (\S+\.py)\n", self.text)
        return first_line[1] if first_line and self.language == "python" else None

    @property
    def example(self) -> str | None:
        """File of ``examples/`` that it shows, named on its first line; None for other blocks."""
        first_line = re.match(r"# (examples/\S+)\n", self.text)
        return first_line[1] if first_line else None

    @property
    def commands(self) -> list[list[str]]:
        """The words of each command without comments; empty for blocks of other kinds."""
        if self.language not in ("", "bash") or self.is_transcript:
            return []
        commands = [shlex.split(line, comments=True) for line in self.lines if line.split(" ")[0] in PROGRAMS]
        return [words for words in commands if words]

    @property
    def lines(self) -> list[str]:
        """The lines, those that end in a backslash joined with the next."""
        return self.text.replace("\\\n", " ").splitlines()


def blocks() -> list[Block]:
    """Return all blocks of all pages."""
    result = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in re.finditer(r"^```(\S*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
            line = text[: match.start()].count("\n") + 1
            result.append(Block(page.relative_to(ROOT).as_posix(), line, match[1], match[2]))
    return result
