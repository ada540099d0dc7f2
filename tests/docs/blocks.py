"""The code blocks of README and docs, and the commands in them."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PROGRAMS = ("python", "make", "git", "pip", "wandb", "tensorboard", "torchrun")


@dataclass(frozen=True)
class Block:
    """A fenced block: its page, the line that it begins in, its language and its text."""

    page: str
    line: int
    language: str
    text: str

    @property
    def place(self) -> str:
        """Where a reader finds it."""
        return f"{self.page}:{self.line}"

    @property
    def is_transcript(self) -> bool:
        """Whether it shows a command behind ``$`` and what it prints."""
        return self.text.startswith("$ ")

    @property
    def adds(self) -> str | None:
        """The file that a block of Python is the content of: its first line names it."""
        named = re.match(r"# (\S+\.py)\n", self.text)
        return named[1] if named and self.language == "python" else None

    @property
    def commands(self) -> list[list[str]]:
        """The words of each command, comments left out; empty for blocks of other kinds."""
        if self.language not in ("", "bash") or self.is_transcript:
            return []
        lines = self.text.replace("\\\n", " ").splitlines()
        found = [shlex.split(line, comments=True) for line in lines if line.split(" ")[0] in PROGRAMS]
        return [words for words in found if words]


def blocks() -> list[Block]:
    """All blocks of all pages."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
            line = text[: match.start()].count("\n") + 1
            found.append(Block(page.relative_to(ROOT).as_posix(), line, match[1], match[2]))
    return found
