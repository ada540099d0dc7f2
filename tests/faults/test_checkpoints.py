"""Checkpoints after kills and full disks, truncated, corrupted or forged ones: rows 1, 2, 4, 5, 6 and 7."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from diffusion_lab.checkpoint import find_checkpoint, load_tensors, verify
from diffusion_lab.checkpoint.files import Manifest, newest_valid, step_of, steps_in
from tests.faults.conftest import AGAIN, TINY, Start
from tests.programs import Program
from tests.sameness import assert_same_state

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def undisturbed(launcher: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder of an uninterrupted run of four epochs."""
    folder = tmp_path_factory.mktemp("undisturbed")
    assert Program(launcher, ("train.py", *TINY, *AGAIN), folder, {}).wait() == 0
    return folder / "run"


@pytest.fixture
def copied(undisturbed: Path, tmp_path: Path) -> Path:
    """Copy of that run folder, to be damaged."""
    shutil.copytree(undisturbed, tmp_path / "work" / "run", symlinks=True)
    return tmp_path / "work" / "run"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """File system with space for two and a half checkpoints."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2500k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount a small file system")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def partial_files(run: Path) -> list[Path]:
    return list((run / "checkpoints").glob(".*.partial"))


def test_killed_while_a_checkpoint_is_written(start: Start, tmp_path: Path, undisturbed: Path) -> None:
    """Row 1: the run resumes from the checkpoint before, which is intact; the partial file is ignored and removed."""
    run = tmp_path / "work" / "run"
    pause = Program.paused_at("step_*.ckpt", 3)  # written, but not renamed yet, so that the kill is never late
    program = start("train.py", *TINY, *AGAIN, "training.epochs=6", env=pause)
    program.until(lambda: len(steps_in(run / "checkpoints")) >= 1 and partial_files(run))
    program.signal(signal.SIGKILL)
    assert program.wait() == -signal.SIGKILL
    before = newest_valid(run / "checkpoints")
    assert before is not None
    assert step_of(before) in (4, 8)
    again = start("train.py", *TINY, *AGAIN, "training.epochs=6")
    assert again.wait() == 0, again.err
    assert not partial_files(run)
    assert all(verify(file) for file in steps_in(run / "checkpoints"))


def test_full_disk(start: Start, small_disk: Path) -> None:
    """Row 2: the checkpoint before is kept, with one clear error and a nonzero exit code."""
    program = start("train.py", *TINY, f"output.base_dir={small_disk / 'run'}", "training.epochs=40")
    assert program.wait() not in (0, None)
    assert program.err.count("Error:") == 1
    assert "no space left on device; the checkpoint was not saved, earlier ones are intact" in program.err
    assert "keeps 40 checkpoints of at least" in program.err  # printed before training
    assert "Traceback" not in program.err
    kept = steps_in(small_disk / "run" / "checkpoints")
    assert kept
    assert all(verify(file) for file in kept)
    assert not partial_files(small_disk / "run")
    assert json.loads((small_disk / "run" / "status.json").read_text())["state"] == "failed"


def test_completely_full_disk(start: Start, small_disk: Path) -> None:
    """Row 2: if not even the status fits, it is overwritten; a new run is refused before anything is created."""
    run = small_disk / "run"
    program = start("train.py", *TINY, f"output.base_dir={run}", env=Program.paused_at("step_*.ckpt", 1))
    program.wait_until_paused()
    room = os.statvfs(small_disk)
    with (small_disk / "filler").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, room.f_bavail * room.f_bsize)
    program.go_on()
    assert program.wait() == 2
    assert json.loads((run / "status.json").read_text())["state"] == "failed"
    refused = start("train.py", *TINY, f"output.base_dir={small_disk / 'second'}")
    assert refused.wait() == 2
    assert "output.base_dir must have room for checkpoints" in refused.err
    assert not (small_disk / "second").exists()


def test_temp_folder_on_another_file_system(start: Start, small_disk: Path, tmp_path: Path, undisturbed: Path) -> None:
    """Row 4: nothing of a checkpoint is written there, so it does not matter even if it is full."""
    room = os.statvfs(small_disk)
    with (small_disk / "filler").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, room.f_bavail * room.f_bsize)
    program = start("train.py", *TINY, *AGAIN, env={"TMPDIR": str(small_disk)})
    assert program.wait() == 0, program.err
    assert [path.name for path in small_disk.iterdir()] == ["filler"]
    assert_same_state(tmp_path / "work" / "run", undisturbed)


@pytest.mark.parametrize("harm", ["empty", "cut", "flip"])
def test_damaged_newest(start: Start, copied: Path, undisturbed: Path, harm: str) -> None:
    """Rows 5 and 6: named with the reason; `auto` resumes from the one before, an explicitly named one is an error."""
    newest = find_checkpoint(copied, "last")
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes({"empty": b"", "cut": bytes(content[:5000]), "flip": bytes(content)}[harm])
    refused = start("train.py", *TINY, *AGAIN[::2], f"training.resume.checkpoint={newest}", "training.epochs=5")
    assert refused.wait() == 2
    assert f"{newest.name} is damaged" in refused.err
    again = start("train.py", *TINY, *AGAIN)
    assert again.wait() == 0, again.err
    assert f"{newest.name} is damaged" in again.err
    assert_same_state(copied, undisturbed)
    assert verify(newest)


def test_all_damage_is_detected(start: Start, copied: Path, tmp_path: Path) -> None:
    """Rows 5 and 6: none of 120 copies, truncated or with a flipped bit at random positions, passes."""
    whole = find_checkpoint(copied, "last")
    content, manifest = whole.read_bytes(), Manifest.read(whole)
    assert manifest is not None
    draw = random.Random(0)
    for number in range(120):
        damaged = bytearray(content)
        place = draw.randrange(len(content))
        damaged[place] ^= 1 << draw.randrange(8)
        copy = tmp_path / "damaged" / str(number) / whole.name
        copy.parent.mkdir(parents=True)
        copy.write_bytes(damaged if number % 2 else content[:place])
        manifest.write(copy)
    verified = start("-m", "diffusion_lab.checkpoint", "verify", str(tmp_path / "damaged"))
    assert verified.wait() == 1
    assert verified.out.count("DAMAGED") == 120
    assert not re.search(r"^valid", verified.out, re.MULTILINE)


class Trap:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


def test_pickle_that_runs_code(start: Start, copied: Path, tmp_path: Path) -> None:
    """Row 7: refused by training, sampling and inspection; no code is run."""
    trace, forged = tmp_path / "trace", tmp_path / "forged.ckpt"
    torch.save({**load_tensors(find_checkpoint(copied)), "callbacks": Trap(trace)}, forged)
    for command in (
        ("train.py", *TINY, *AGAIN[::2], f"training.resume.checkpoint={forged}"),
        ("sample.py", f"ckpt={forged}", "device=cpu"),
        ("-m", "diffusion_lab.checkpoint", "inspect", str(forged)),
    ):
        program = start(*command)
        assert program.wait() == 2, program.err
        assert "forged.ckpt is not a checkpoint, or a damaged one, or one that runs code" in program.err
    assert not trace.exists()


def test_config_that_names_an_untrusted_class(start: Start, copied: Path, tmp_path: Path) -> None:
    """Row 7: the class is not imported unless the user trusts it."""
    trace, forged = tmp_path / "trace", tmp_path / "forged.ckpt"
    (tmp_path / "work" / "my_foreign_lab.py").write_text(
        f"import os\nos.mkdir({str(trace)!r})\nfrom diffusion_lab.networks import UNet\n"
    )
    content = load_tensors(find_checkpoint(copied))
    content["diffusion_lab"]["config"]["model"]["architecture"]["type"] = "my_foreign_lab.UNet"
    torch.save(content, forged)
    sample = ("sample.py", f"ckpt={forged}", "device=cpu", "num_samples=2", "sampler.steps=2")
    refused = start(*sample, env={"PYTHONPATH": "."})
    assert refused.wait() == 2
    assert "my_foreign_lab.UNet" in refused.err
    assert "trust=" in refused.err
    assert not trace.exists()
