"""The documentation site has all pages and all public names. `make site` builds it, and fails on any warning."""

from __future__ import annotations

import ast
import functools
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from diffusion_lab.console.command_line import COMMANDS
from scripts import commands_page
from tests.docs.blocks import PAGES, ROOT
from tests.docs.test_links import LINK, prose

PACKAGE = ROOT / "diffusion_lab"
FRONT_PAGE = ROOT / "docs" / "index.md"
TOC = yaml.safe_load((ROOT / "docs" / "_toc.yml").read_text(encoding="utf-8"))
DIRECTIVE = re.compile(r"^\.\. auto(\w+):: ([\w.]+)\n((?:   :.*\n)*)", re.MULTILINE)


def files_of(entries: list[dict[str, Any]]) -> Iterator[Path]:
    """Yield the pages of a part of the table of contents, in order."""
    for entry in entries:
        pattern = entry.get("glob") or entry["file"]
        found = [file for file in sorted(ROOT.glob(f"{pattern}.*")) if file.suffix in (".md", ".ipynb")]
        assert found, f"docs/_toc.yml: no page {pattern}"
        yield from found
        yield from files_of(entry.get("entries", []))


PARTS = {part["caption"]: list(files_of(part["entries"])) for part in TOC["subtrees"]}


def test_the_site_has_four_parts() -> None:
    assert list(PARTS) == ["Tutorials", "How-to guides", "Reference", "Explanation"]
    headings = re.findall(r"^## (.*)$", FRONT_PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert headings == list(PARTS)


def test_every_page_has_one_place() -> None:
    placed = [file for part in PARTS.values() for file in part]
    notebooks = set((ROOT / "notebooks").glob("*.ipynb"))
    assert len(placed) == len(set(placed))
    assert {*PAGES, *notebooks} - {FRONT_PAGE} <= set(placed)


@pytest.mark.parametrize("part", PARTS)
def test_the_front_page_links_to_the_pages_of_each_part(part: str) -> None:
    text = re.split(r"^## ", prose(FRONT_PAGE), flags=re.MULTILINE)[1 + list(PARTS).index(part)]
    linked = {(FRONT_PAGE.parent / target.partition("#")[0]).resolve() for target in LINK.findall(text)}
    expected = {file for file in PARTS[part] if file.parent.name != "api" or file.stem == "index"}
    assert {file for file in expected if not file.stem.endswith("_LICENSE")} <= linked


def test_the_page_of_commands_is_current() -> None:
    assert commands_page.page() == commands_page.PAGE.read_text(encoding="utf-8"), "run `make docs`"
    headings = re.findall(r"^## (\S+)$", commands_page.page(), re.MULTILINE)
    assert headings == list(COMMANDS)


@functools.cache
def public_names() -> dict[str, list[str]]:
    """Return the names in ``__all__`` of each module, read without importing it."""
    names = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        text = file.read_text(encoding="utf-8")
        for node in ast.parse(text).body if "\n__all__ = " in text else ():
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                module = ".".join(file.parent.relative_to(ROOT).parts)
                names[module] = [name for name in ast.literal_eval(node.value) if not name.startswith("__")]
    return names


def documented_names() -> set[str]:
    """Return the names in docs/api/ without their modules."""
    found: set[str] = set()
    for page in (ROOT / "docs" / "api").glob("*.md"):
        for kind, name, options in DIRECTIVE.findall(page.read_text(encoding="utf-8")):
            if kind == "module" and ":members:" in options:
                hidden = re.search(r":exclude-members: (.*)", options)
                found |= {*public_names().get(name, [])} - {*(hidden[1].split(", ") if hidden else [])}
            elif kind != "module":
                found.add(name.rpartition(".")[2])
    return found


def test_every_public_name_has_a_place_in_the_reference() -> None:
    documented = documented_names()
    missing = {
        f"{module}.{name}" for module, names in public_names().items() for name in names if name not in documented
    }
    assert not missing, "add them to a page of docs/api/"


def test_what_the_site_needs_has_tested_versions() -> None:
    metadata = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    tested = {line.partition("==")[0].lower().replace("_", "-") for line in (ROOT / "constraints.txt").open()}
    assert {re.match(r"[\w-]+", need)[0] for need in metadata["optional-dependencies"]["docs"]} <= tested  # type: ignore[index]
