"""The table of docs/reliability.md names existing tests, and every row has one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROWS = 30


def table() -> dict[int, str]:
    """The last column of each row."""
    text = (ROOT / "docs" / "reliability.md").read_text()
    return {int(row[1]): row[2] for row in re.finditer(r"^\| (\d+) \|.*\| ([^|]*) \|$", text, re.MULTILINE)}


def rows_of(source: str) -> set[int]:
    """The rows that the docstrings of a test file say they try."""
    rows = re.findall(r'"""Rows? ([\d, and]+)', source)
    return {int(number) for words in rows for number in re.findall(r"\d+", words)}


def test_all_rows_exist() -> None:
    assert list(table()) == list(range(1, ROWS + 1))


@pytest.mark.parametrize("row", range(1, ROWS + 1))
def test_the_tests_of_a_row_exist_and_name_it(row: int) -> None:
    named = re.findall(r"`([^`]+)`", table()[row])
    file, _, first = named[0].partition("::")
    source = (ROOT / "tests" / "faults" / file).read_text()
    assert row in rows_of(source)
    for name in filter(None, [first, *(other.removeprefix("::") for other in named[1:] if other.startswith("::"))]):
        assert f"def {name}(" in source
