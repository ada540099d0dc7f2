"""What a run writes stays inside its folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from diffusion_lab.config import ConfigError, validate_config
from tests.config.conftest import Change

INSIDE = "must be a relative folder name that stays inside output.base_dir"


@pytest.mark.parametrize("name", ["../../x", "/tmp/x", "a/../../x", ".", "logs\0x"])
def test_a_name_that_leaves_the_folder_is_refused(changed: Change, name: str) -> None:
    with pytest.raises(ConfigError, match=INSIDE):
        validate_config(changed({"output.subdirs.logs": name}))


def test_a_link_that_leaves_the_folder_is_refused(changed: Change, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run" / "logs").symlink_to("../elsewhere")
    given = {"output.base_dir": str(tmp_path / "run"), "data.paths.train": str(tmp_path / "elsewhere")}
    with pytest.raises(ConfigError, match=r'output\.subdirs\.logs = "logs": must stay inside .*leads to .*elsewhere'):
        validate_config(changed(given))
    with pytest.raises(ConfigError, match=r"output\.subdirs\.logs = \"logs/deeper\": must stay inside"):
        validate_config(changed({**given, "output.subdirs.logs": "logs/deeper"}))


def test_a_link_within_the_folder_or_as_the_folder_is_fine(changed: Change, tmp_path: Path) -> None:
    for name in ("disk", "images"):
        (tmp_path / name).mkdir()
    (tmp_path / "run").symlink_to("disk")
    (tmp_path / "disk" / "logs").symlink_to("samples")
    validate_config(changed({"output.base_dir": str(tmp_path / "run"), "data.paths.train": str(tmp_path / "images")}))
