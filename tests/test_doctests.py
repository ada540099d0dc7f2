"""The examples in the docstrings run. Those of `diffusion_lab.config` have their own test."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "diffusion_lab"


def modules_with_examples() -> list[str]:
    """Found by text, so that nothing is imported to collect them."""
    files = [file for file in sorted(PACKAGE.rglob("*.py")) if file.relative_to(PACKAGE).parts[0] != "config"]
    with_examples = [file for file in files if ">>> " in file.read_text(encoding="utf-8")]
    return [".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts) for file in with_examples]


def test_examples_exist():
    assert "diffusion_lab.sampling.sampler" in modules_with_examples()


@pytest.mark.parametrize("name", modules_with_examples())
def test_examples_in_docstrings_run(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0
