"""Custom classes are found in the user's folders, whose other files hide no library."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from diffusion_lab.faults import ConfigError
from diffusion_lab.runtime import import_class
from diffusion_lab.runtime.import_class import find_classes_in, load_class

NAMES = ("own_lab", "own_module", "plain_lab")


@pytest.fixture(autouse=True)
def clean_imports(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(import_class, "_user_folders", [])
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] in NAMES]:
        del sys.modules[name]


def package(folder: Path, origin: str, name: str = "own_lab") -> None:
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").touch()
    (folder / name / "nets.py").write_text(f"class Net:\n    origin = {origin!r}\n")


def test_the_users_package_is_found_before_an_installed_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package(tmp_path / "site-packages", "installed")
    package(tmp_path / "here", "here")
    (tmp_path / "here/colorsys.py").write_text("raise RuntimeError('not the library')\n")
    sys.path.insert(0, str(tmp_path / "site-packages"))
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    find_classes_in(None)
    assert load_class("own_lab.nets.Net", "key").origin == "here"
    import colorsys

    assert colorsys.rgb_to_hsv


@pytest.mark.parametrize("place", ["conf", "."])
def test_a_package_in_or_next_to_the_config_dir_is_found(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "conf").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / place / "plain_lab").mkdir()
    (tmp_path / place / "plain_lab/nets.py").write_text("class Net:\n    pass\n")  # without __init__.py
    find_classes_in("../conf")
    assert load_class("plain_lab.nets.Net", "key").__module__ == "plain_lab.nets"


def test_a_module_that_fails_is_reported_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_module.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    find_classes_in(None)
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"ZeroDivisionError: division by zero at .*own_module\.py:1\)"):
            load_class("own_module.Net", "key")
