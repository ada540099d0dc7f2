from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from diffusion_lab.folder_lock import held, refuse_if_used

HOLD = """
import sys
from pathlib import Path
from diffusion_lab.folder_lock import held
with held(Path(sys.argv[1]), "key"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_folder_that_another_process_holds_is_refused_until_that_one_is_gone(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        message = rf"key is in use by another process, got .*run' \(process {holder.pid} on "
        with pytest.raises(ValueError, match=message):
            refuse_if_used(tmp_path / "run", "key")
        with pytest.raises(ValueError, match=message), held(tmp_path / "run", "key"):
            pass
        holder.kill()
    refuse_if_used(tmp_path / "run", "key")
    with held(tmp_path / "run", "key"):
        pass


def test_looking_creates_nothing(tmp_path: Path) -> None:
    refuse_if_used(tmp_path / "run", "key")
    (tmp_path / "empty").mkdir()
    refuse_if_used(tmp_path / "empty", "key")
    assert [path.name for path in tmp_path.rglob("*")] == ["empty"]
