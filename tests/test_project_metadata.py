"""The supported versions of Python, and that of the project, are the same wherever they are named."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml

from diffusion_lab.version import __version__

ROOT = Path(__file__).resolve().parents[1]
METADATA = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
VERSIONS = [name.rpartition(" ")[2] for name in METADATA["classifiers"] if re.search(r":: 3\.\d+$", name)]
"""The supported versions, oldest first: ["3.11", …]."""


def next_version(version: str) -> str:
    """Return the minor version of Python after a version."""
    return f"3.{int(version.removeprefix('3.')) + 1}"


def test_the_package_requires_them() -> None:
    assert sorted(VERSIONS, key=lambda version: int(version.removeprefix("3."))) == VERSIONS
    assert METADATA["requires-python"] == f">={VERSIONS[0]},<{next_version(VERSIONS[-1])}"


def test_ci_tests_the_oldest_and_the_newest() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    assert workflow["jobs"]["tests"]["strategy"]["matrix"]["python"] == [VERSIONS[0], VERSIONS[-1]]
    script = (ROOT / ".ci/run").read_text(encoding="utf-8")
    assert f"SUPPORTED=({' '.join(VERSIONS)})" in script
    selected = re.findall(r"^NEWEST=\(([^)]*)\)", script, re.MULTILINE)[0].split()
    assert [path for path in selected if not (ROOT / path).exists()] == []


def test_set_up_accepts_them_alone() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    limits = [f"({version.replace('.', ', ')})" for version in (VERSIONS[0], next_version(VERSIONS[-1]))]
    assert f"sys.exit(not {limits[0]} <= sys.version_info < {limits[1]})" in makefile
    assert f"Python {', '.join(VERSIONS[:-1])} or {VERSIONS[-1]} is required" in makefile


def test_the_code_is_checked_for_the_oldest() -> None:
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    assert tools["mypy"]["python_version"] == VERSIONS[0]
    assert tools["ruff"]["target-version"] == f"py{VERSIONS[0].replace('.', '')}"


def test_the_changelog_describes_the_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    unreleased, *releases = re.findall(r"^## (.*)$", changelog, re.MULTILINE)
    assert unreleased == "[Unreleased]"
    assert re.fullmatch(rf"\[{re.escape(__version__)}\] - \d{{4}}-\d\d-\d\d", releases[0])


def test_the_citation_names_the_version_and_its_date() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == __version__
    assert f"## [{__version__}] - {citation['date-released']}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
