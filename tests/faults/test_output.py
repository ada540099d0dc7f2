"""Folders that cannot be written, and a machine without network."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.conftest import TINY, Start
from tests.program_launcher import ROOT

pytestmark = pytest.mark.faults


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """Read-only file system, which not even root can write to; else a folder without write permission."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "ro,size=1m", "tmpfs", place], capture_output=True)
    if mounted.returncode and os.geteuid() == 0:
        pytest.skip("root writes everywhere, and cannot mount a read-only file system here")
    place.chmod(0o555) if mounted.returncode else None
    yield place
    place.chmod(0o755) if mounted.returncode else subprocess.run(["umount", place], check=True)


def test_a_folder_that_cannot_be_written(start: Start, tmp_path: Path, read_only: Path) -> None:
    """Row 3: the output folder cannot be written: refused before the first training step."""
    run = start("train.py", *TINY, f"output.base_dir={read_only}/runs/mine")
    assert run.wait() == 2
    assert f"Error: output.base_dir must be a writable folder, got '{read_only}/runs/mine'" in run.err
    assert "epoch 1" not in run.err
    assert "Traceback" not in run.err
    assert not list((tmp_path / "work").iterdir())


def test_a_folder_below_a_file(start: Start, tmp_path: Path) -> None:
    """Row 3: the same if a file is in the way."""
    (tmp_path / "file").write_text("in the way")
    run = start("train.py", *TINY, f"output.base_dir={tmp_path}/file/run")
    assert run.wait() == 2
    assert "output.base_dir must be a writable folder" in run.err
    assert not list((tmp_path / "work").iterdir())


def test_a_link_out_of_the_folder(start: Start, tmp_path: Path) -> None:
    """A run writes only to its folder: a link that leads out of it is refused."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "logs").symlink_to(tmp_path)
    run = start("train.py", *TINY, f"output.base_dir={tmp_path}/run")
    assert run.wait() == 2
    assert 'output.subdirs.logs = "logs": must stay inside output.base_dir' in run.err
    assert not (tmp_path / "metrics.jsonl").exists()


def without_network() -> list[str]:
    """Return the command prefix for an isolated network namespace; empty if the system forbids it."""
    inside = ["unshare", "--net", "sh", "-c", 'ip link set lo up 2>/dev/null; exec "$@"', "sh"]
    usable = shutil.which("unshare") and subprocess.run([*inside, "true"], capture_output=True).returncode == 0
    return inside if usable else []


def test_no_network_and_no_account(tmp_path: Path) -> None:
    """Row 24: no network and no W&B account: everything works; the run is kept for a later sync."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB", "DIFFUSION_LAB"))}
    env |= {"HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    env |= dict.fromkeys(("http_proxy", "https_proxy", "HTTPS_PROXY"), "http://127.0.0.1:9")  # no server
    overrides = [each for each in TINY if not each.startswith(("logger", "training.epochs"))]
    done = subprocess.run(
        [
            *without_network(),
            sys.executable,
            str(ROOT / "train.py"),
            *overrides,
            "training.epochs=1",
            "output.base_dir=run",
        ],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    (kept,) = (tmp_path / "run" / "logs").glob("wandb/offline-run-*")  # what `wandb sync` takes
    (record,) = kept.glob("run-*.wandb")
    assert record.stat().st_size > 0
    assert (tmp_path / "run" / "summary.json").is_file()
    assert len((tmp_path / "run" / "logs" / "metrics.jsonl").read_text().splitlines()) >= 5
