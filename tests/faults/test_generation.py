"""An interrupted `sample.py` continues where it stopped, whatever stopped it."""

from __future__ import annotations

import random
import re
import signal
from pathlib import Path

import pytest

from tests.faults.conftest import TINY, Start
from tests.programs import Launcher, Program

pytestmark = [pytest.mark.faults, pytest.mark.integration]

COUNT = 60
SAMPLE = (
    "device=cpu",
    "sampler.steps=10",
    f"num_samples={COUNT}",
    "generation.sampling.batch_size=4",
    "generation.output.save_npz=true",
)
HERE = ("output.base_dir=out", "output.subdirs.generated=generated")


@pytest.fixture(scope="module")
def run_folder(launcher: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "work"
    folder.mkdir()
    trained = Program(launcher, ("train.py", *TINY, "training.epochs=1", "output.base_dir=run"), folder, {})
    assert trained.wait() == 0, trained.err
    return folder / "run"


@pytest.fixture(scope="module")
def whole(launcher: Launcher, run_folder: Path) -> dict[str, bytes]:
    """Files of an uninterrupted run."""
    program = Program(launcher, ("sample.py", f"ckpt={run_folder}", *SAMPLE, *HERE), run_folder.parent, {})
    assert program.wait() == 0, program.err
    return contents(run_folder.parent / "out" / "generated")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def pictures(folder: Path) -> int:
    return len(list(folder.glob("sample_*.png")))


def paused_at(number: int) -> dict[str, str]:
    """Return the environment of a program that pauses before it writes its n-th image."""
    return Program.paused_at("sample_*.png", number)


def test_kills_at_random_times(start: Start, run_folder: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    """kill -9 repeatedly, at any image: the final folder equals that of an uninterrupted run."""
    chance = random.Random(0)
    folder = tmp_path / "work" / "out" / "generated"
    command = ("sample.py", f"ckpt={run_folder}", *SAMPLE, *HERE)
    kills = 0
    while pictures(folder) < COUNT and kills < 8:
        already, further = pictures(folder), chance.randint(1, 12)
        program = start(*command, env=paused_at(further + 3))  # so that a slow kill is in time
        program.until(lambda already=already, further=further: pictures(folder) >= min(already + further, COUNT))
        program.signal(signal.SIGKILL)
        assert program.wait() in (-signal.SIGKILL, 0)
        kills += 1
        assert pictures(folder) > already
    program = start(*command)
    assert program.wait() == 0, program.err
    assert kills >= COUNT // 14
    assert contents(folder) == whole


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_stop_it_cleanly(
    start: Start, run_folder: Path, whole: dict[str, bytes], tmp_path: Path, number: signal.Signals, code: int
) -> None:
    """SIGTERM and Ctrl-C, twice: one line says how to continue, and the same command does."""
    folder = tmp_path / "work" / "out" / "generated"
    command = ("sample.py", f"ckpt={run_folder}", *SAMPLE, *HERE)
    program = start(*command, env=paused_at(7))
    program.wait_until_paused()
    program.signal(number)
    program.go_on()
    program.signal(number)
    assert program.wait() == code
    assert "Traceback" not in program.err
    (message,) = re.findall(r"^Stopped by .*$", program.err, re.MULTILINE)
    assert "run the same command again to continue with the images in out/generated" in message
    assert pictures(folder) < COUNT
    again = start(*command)
    assert again.wait() == 0, again.err
    assert re.search(rf"Continuing in out/generated: \d+ of {COUNT} images are there", again.err)
    assert contents(folder) == whole

    finished = start(*command)
    assert finished.wait() == 0, finished.err
    assert "already complete" in finished.out
    assert contents(folder) == whole


def test_a_signal_before_the_first_image(start: Start, run_folder: Path, tmp_path: Path) -> None:
    """SIGTERM while the program is still starting: 143 and no traceback."""
    program = start("sample.py", f"ckpt={run_folder}", *SAMPLE, *HERE)
    program.until(lambda: _handles(program.pid, signal.SIGTERM))
    program.signal(signal.SIGTERM)
    assert program.wait() == 143
    assert "Traceback" not in program.err


def test_the_same_command_without_a_named_folder(start: Start, run_folder: Path, tmp_path: Path) -> None:
    """The folder's name is the time: killed and started again, it continues in the first, with the same seed."""
    command = ("sample.py", f"ckpt={run_folder}", *SAMPLE, "seed=null", "output.base_dir=out")
    generated = tmp_path / "work" / "out" / "generated"
    program = start(*command, env=paused_at(7))
    program.wait_until_paused()
    program.signal(signal.SIGKILL)
    program.wait()
    (folder,) = generated.iterdir()
    first = (folder / "sample_0000.png").read_bytes()
    again = start(*command)
    assert again.wait() == 0, again.err
    assert list(generated.iterdir()) == [folder]
    assert pictures(folder) == COUNT
    assert (folder / "sample_0000.png").read_bytes() == first
    assert len(set(re.findall(r'"seed": (\d+)', (folder / "manifest.jsonl").read_text()))) == 1


def test_two_processes_on_one_folder(start: Start, run_folder: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    """The second is refused; the lock of a killed process blocks nobody."""
    folder = tmp_path / "work" / "out" / "generated"
    command = ("sample.py", f"ckpt={run_folder}", *SAMPLE, *HERE)
    first = start(*command, env=paused_at(3))
    first.wait_until_paused()
    second = start(*command)
    assert second.wait() == 2
    assert f"(process {first.pid} on " in second.err
    first.signal(signal.SIGKILL)
    first.wait()
    third = start(*command)
    assert third.wait() == 0, third.err
    assert contents(folder) == whole


def _handles(pid: int, number: signal.Signals) -> bool:
    """Return whether a process has a handler for a signal."""
    status = Path(f"/proc/{pid}/status").read_text()
    (caught,) = re.findall(r"^SigCgt:\s*(\w+)$", status, re.MULTILINE)
    return bool(int(caught, 16) >> (number - 1) & 1)
