"""A folder that cannot be created is refused by its key, whatever the system error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from diffusion_lab.files.folder_lock import hold_lock
from diffusion_lab.files.writing import check_writable


def lock(folder: Path, key: str) -> None:
    with hold_lock(folder, key):
        pass


@pytest.mark.parametrize("use", [lock, check_writable])
@pytest.mark.parametrize("name", ["a" * 300, "/".join(["a" * 200] * 30)])
def test_name_that_is_too_long(tmp_path: Path, use: Callable[[Path, str], None], name: str) -> None:
    with pytest.raises(
        OSError, match=r"^output\.base_dir must be a folder .*: file name too long; choose another"
    ) as no:
        use(tmp_path / name, "output.base_dir")
    assert len(str(no.value)) < 500
    assert "Errno" not in str(no.value)


def test_parent_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match=r"^output\.base_dir must .*: not a directory; choose another folder"):
        lock(tmp_path / "file" / "run", "output.base_dir")
