"""Images that are missing, damaged or of other classes, and processes that load them and die or hang."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.faults.conftest import TINY, Start
from tests.programs import Program

pytestmark = pytest.mark.faults

OWN = (
    *("train.py", "data=image_folder", *TINY, "data.loading.num_workers=0", "data.loading.batch_size=4"),
    *("model=unet_tiny", "model.architecture.model_channels=8", "model.architecture.image_size=8"),
    *("training.epochs=1", "training.visualization.enabled=false", "data.paths.train=images", "output.base_dir=run"),
)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "work" / "images").mkdir(parents=True)
    return tmp_path / "work"


def pixels(height: int = 9, width: int = 12) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save_some(folder: Path, number: int = 8) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(number):
        Image.fromarray(pixels()).save(folder / f"{index}.png")


def refused(run: Program, work: Path, *messages: str) -> None:
    """Check that the run ended with one message and exit code 2, and has no run folder."""
    assert run.wait() == 2, run.err
    assert len(re.findall(r"^Error: ", run.err, re.MULTILINE)) == 1
    assert all(words in run.err for words in messages), run.err
    assert "Traceback" not in run.err
    assert not (work / "run").exists()


def test_an_empty_folder(start: Start, work: Path) -> None:
    """Row 17: an empty data folder is an error before training."""
    refused(start(*OWN), work, "data.paths.train holds no images", "has no files")


def test_no_batch_remains(start: Start, work: Path) -> None:
    """Row 17: no batch left after ``drop_last`` is an error before training."""
    save_some(work / "images", 5)
    run = start(*OWN, "data.loading.batch_size=64", "data.loading.drop_last=true")
    refused(run, work, "data.loading.batch_size", "drop_last")


def every_kind(folder: Path) -> int:
    """Save gray, RGBA, 16-bit, palette, animated and odd-sized images; return their number."""
    colour = Image.fromarray(pixels())
    colour.convert("L").save(folder / "gray.png")
    colour.convert("RGBA").save(folder / "alpha.png")
    colour.convert("LA").save(folder / "gray_alpha.png")
    colour.quantize(8).save(folder / "palette.png")
    Image.fromarray(pixels()[..., 0].astype(np.uint16) * 257).save(folder / "deep.png")
    for name in ("gif", "webp", "png"):
        colour.save(folder / f"animated.{name}", save_all=True, append_images=[colour.rotate(90)])
    Image.fromarray(pixels(1, 1)).save(folder / "dot.png")
    Image.fromarray(pixels(3, 211)).save(folder / "long.jpg")
    return 10


def test_every_kind_of_image_and_a_corrupt_one(start: Start, work: Path) -> None:
    """Row 18: what can be converted is; a corrupt file is named, and skipped or fatal as configured."""
    count = every_kind(work / "images")
    whole = (work / "images" / "palette.png").read_bytes()
    (work / "images" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (work / "images" / "text.jpg").write_text("no picture")
    fatal = start(*OWN, "data.on_corrupt=error")
    refused(fatal, work, "2 corrupt image(s), and data.on_corrupt = error", "cut.png", "text.jpg")
    skipped = start(*OWN)
    assert skipped.wait() == 0, skipped.err
    assert "2 corrupt image(s) skipped" in skipped.err
    assert all(name in skipped.err for name in ("cut.png", "text.jpg"))
    assert re.search(rf"^images +{count - 1} of ", skipped.err, re.MULTILINE)  # one is held out for validation


def test_a_validation_class_that_training_lacks(start: Start, work: Path) -> None:
    """Row 22: a class folder in val that train lacks is named."""
    for name in ("cat", "dog"):
        save_some(work / "images" / name)
    save_some(work / "val" / "wolf")
    refused(start(*OWN, "data.paths.val=val"), work, "data.paths.val", "(cat, dog)", "got the folder(s) wolf")


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def left_over(group: int) -> list[str]:
    """Return the command lines of running processes in a process group."""
    commands = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            fields = (process / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended meanwhile
        if int(fields[2]) == group and fields[0] != "Z":
            commands.append((process / "cmdline").read_text())
    return commands


def gone(group: int, seconds: float = 60) -> bool:
    ends = time.monotonic() + seconds
    while left_over(group) and time.monotonic() < ends:
        time.sleep(0.05)
    return not left_over(group)


WITH_WORKERS = (*OWN, "data.loading.num_workers=2", "training.epochs=1000", "training.validation.enabled=false")


def test_a_loader_worker_is_killed(start: Start, work: Path) -> None:
    """Row 20: a loader worker that dies, as the kernel kills one where memory runs out, is an error naming it."""
    save_some(work / "images")
    run = start(*WITH_WORKERS)
    run.until(lambda: "epoch 2/1000" in run.err)
    worker = children(run.pid)[0]
    os.kill(worker, signal.SIGKILL)
    assert run.wait() == 2, run.err
    assert f"Error: a process that loads images (process id {worker}) was killed by signal Killed" in run.err
    assert "data.loading.num_workers" in run.err
    assert "Traceback" not in run.err
    assert gone(run.pid), left_over(run.pid)
    assert '"state": "failed"' in (work / "run" / "status.json").read_text()


def test_a_loader_worker_hangs(start: Start, work: Path) -> None:
    """Row 20: a loader worker that hangs is an error within the time limit of the settings."""
    own = ("data.type=tests.faults.hanging_images.Hanging", "training.validation.enabled=false", "output.base_dir=run")
    run = start("train.py", *TINY, *own, "data.loading.num_workers=2", "data.loading.worker_timeout=2")
    assert run.wait() == 2, run.err
    assert (
        "Error: no process that loads images returned a batch for 2 s, the limit data.loading.worker_timeout" in run.err
    )
    assert "Traceback" not in run.err
    assert gone(run.pid), left_over(run.pid)


def test_a_loader_worker_that_is_suspended_alone(start: Start, work: Path) -> None:
    """Row 20: a worker that is suspended for longer than the limit is an error, and is not waited for at the end."""
    save_some(work / "images")
    run = start(*WITH_WORKERS, "data.loading.worker_timeout=4")
    run.until(lambda: "epoch 2/1000" in run.err)
    worker = children(run.pid)[0]
    os.kill(worker, signal.SIGSTOP)
    assert run.wait() == 2, run.err
    assert (
        "Error: no process that loads images returned a batch for 4 s, the limit data.loading.worker_timeout" in run.err
    )
    assert "Traceback" not in run.err
    assert gone(run.pid), left_over(run.pid)


def test_no_worker_outlives_a_killed_run(start: Start, work: Path) -> None:
    """Row 20: workers end by themselves when the run that they load for is gone."""
    save_some(work / "images")
    run = start(*WITH_WORKERS)
    run.until(lambda: "epoch 1/1000" in run.err)
    assert len(children(run.pid)) >= 2
    run.signal(signal.SIGKILL)
    run.wait()
    assert gone(run.pid), left_over(run.pid)
