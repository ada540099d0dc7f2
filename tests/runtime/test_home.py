from __future__ import annotations

import os
import pwd
import tempfile
from pathlib import Path

import pytest

from diffusion_lab.runtime.home import ensure_home


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A user whom neither the environment nor the system knows; gives the folder for temporary files."""

    def unknown(number: int) -> pwd.struct_passwd:
        raise KeyError(f"getpwuid(): uid not found: {number}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in ("HOME", "USER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(RuntimeError):
        Path.home()
    return tmp_path


def test_missing_home_is_replaced(nobody: Path) -> None:
    ensure_home()
    assert Path.home() == nobody / f"home-{os.getuid()}"
    assert Path.home().stat().st_mode & 0o077 == 0
    assert os.environ["USER"] == str(os.getuid())
    ensure_home()
    assert Path.home() == nobody / f"home-{os.getuid()}"


def test_folder_that_others_may_write_is_not_used(nobody: Path) -> None:
    (nobody / f"home-{os.getuid()}").mkdir()
    (nobody / f"home-{os.getuid()}").chmod(0o777)
    ensure_home()
    assert Path.home().parent == nobody
    assert Path.home() != nobody / f"home-{os.getuid()}"


def test_link_is_not_used(nobody: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    (nobody / f"home-{os.getuid()}").symlink_to(tmp_path_factory.mktemp("elsewhere"))
    ensure_home()
    assert not Path.home().is_symlink()


def test_existing_home_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/anna")
    ensure_home()
    assert os.environ["HOME"] == "/home/anna"
