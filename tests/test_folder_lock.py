from __future__ import annotations

from pathlib import Path

import pytest

from diffusion_lab.folder_lock import held, refuse_if_used
from tests.another_process import holding


def test_a_folder_that_another_process_holds_is_refused_until_that_one_is_gone(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with holding(folder) as holder:
        message = rf"key is in use by another process, got .*run' \(process {holder.pid} on "
        with pytest.raises(ValueError, match=message):
            refuse_if_used(folder, "key")
        with pytest.raises(ValueError, match=message), held(folder, "key"):
            pass
    assert list(folder.iterdir())  # the file of one that was killed: nobody holds it
    refuse_if_used(folder, "key")
    with held(folder, "key"):
        pass
    assert not list(folder.iterdir())


def test_looking_creates_nothing(tmp_path: Path) -> None:
    refuse_if_used(tmp_path / "run", "key")
    (tmp_path / "empty").mkdir()
    refuse_if_used(tmp_path / "empty", "key")
    assert [path.name for path in tmp_path.rglob("*")] == ["empty"]
