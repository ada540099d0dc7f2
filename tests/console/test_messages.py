"""Console format of warnings and errors, whatever their origin."""

from __future__ import annotations

import errno
import logging
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from diffusion_lab.console.messages import ADVICE, PROJECT, PlainFormatter, explain, sentence, show_plain_warnings
from diffusion_lab.faults import ConfigWarning


@pytest.fixture(autouse=True)
def plain() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        show_plain_warnings()
        yield


def warn_from(file: Path | str, category: type[Warning] = UserWarning) -> None:
    warnings.warn_explicit("something\n  is odd", category, str(file), 7)


@pytest.mark.parametrize(
    ("file", "shown"),
    [
        (PROJECT / "diffusion_lab/data/image_folder.py", "something\n  is odd"),
        ("/env/lib/python3.12/site-packages/torch/optim/sgd.py", "something is odd. [torch]"),
        ("/usr/lib/python3/dist-packages/six.py", "something is odd. [six]"),
        ("/home/me/my_lab/optim.py", "something is odd. [/home/me/my_lab/optim.py:7]"),
    ],
)
@pytest.mark.parametrize("category", [UserWarning, ConfigWarning, FutureWarning, RuntimeWarning])
def test_no_warning_shows_its_category_or_its_line(
    file: Path | str, shown: str, category: type[Warning], capsys: pytest.CaptureFixture[str]
) -> None:
    warn_from(file, category)
    assert capsys.readouterr().err == f"Warning: {shown}\n"


def test_a_warning_is_a_sentence_without_escape_codes(capsys: pytest.CaptureFixture[str]) -> None:
    warnings.warn_explicit("\x1b[2Jx.png is corrupt", UserWarning, str(PROJECT / "train.py"), 1)
    assert capsys.readouterr().err == "Warning: \\x1b[2Jx.png is corrupt.\n"


@pytest.mark.parametrize(
    "text", ["Done.", "Which?", "2 settings are wrong:\n  a = 1: unknown", "see:", "To install it:\npip install x", ""]
)
def test_punctuation_is_not_added_twice(text: str) -> None:
    assert sentence(text) == text


@pytest.mark.parametrize("number", [*ADVICE, errno.EBADF])
@pytest.mark.parametrize("files", [(), ("a b/c",), ("a", None, "b")])
def test_system_errors_always_have_advice(number: int, files: tuple[str | None, ...]) -> None:
    text = explain(OSError(number, os.strerror(number), *files))
    assert "Errno" not in text
    assert all(file in text for file in files if file)
    assert re.search(r"\([a-z].{8,}\)$", text), text  # what to do


def test_other_errors_keep_their_message() -> None:
    assert explain(ValueError("training.epochs must be at least 1")) == "training.epochs must be at least 1"
    assert explain(FileNotFoundError("no flowers")) == "no flowers"
    assert explain(MemoryError()) == "MemoryError"


@pytest.mark.parametrize(
    ("level", "shown"),
    [
        (logging.WARNING, "Warning: a loader is slow."),
        (logging.ERROR, "Error: a loader is slow."),
        (20, "a loader is slow"),
    ],
)
def test_log_records_have_the_same_format(level: int, shown: str) -> None:
    record = logging.LogRecord("lightning", level, __file__, 1, "a %s is slow", ("loader",), None)
    assert PlainFormatter(format="[%(asctime)s] %(message)s").format(record) == shown
