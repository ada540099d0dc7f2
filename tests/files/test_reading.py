"""Untrusted files: read without blocking and with bounded size, or refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from diffusion_lab.console.terminal import printable
from diffusion_lab.files.reading import FileTooLargeError, NotRegularFileError, open_regular, read_json, read_regular


def test_regular_files_are_read_also_behind_links(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert read_regular(tmp_path / "link", 3) == b"abc"


def test_a_fifo_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(NotRegularFileError, match="fifo is not a regular file"):
        open_regular(tmp_path / "fifo")


@pytest.mark.parametrize("path", [Path("/dev/zero"), Path("/")])
def test_devices_and_folders_are_refused(path: Path) -> None:
    with pytest.raises(NotRegularFileError, match="not a regular file"):
        open_regular(path)


def test_a_file_over_the_limit_is_refused(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"abcd")
    with pytest.raises(FileTooLargeError, match="has 4 bytes, at most 3 are read"):
        open_regular(tmp_path / "large", 3)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"{", b"[" * 100_000, b""])
def test_invalid_json_is_a_value_error_naming_the_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "about.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"about\.json is not valid JSON"):
        read_json(tmp_path / "about.json")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("rose", "rose"),
        ("Blüte 花\n\t", "Blüte 花\n\t"),
        ("\x1b]0;owned\x07", "\\x1b]0;owned\\x07"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("\x9b31m", "\\x9b31m"),
        ("a\udcffb", "a\\udcffb"),
    ],
)
def test_printable_text_holds_no_escape_codes(text: str, shown: str) -> None:
    assert printable(text) == shown
