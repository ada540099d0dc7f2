"""A run killed repeatedly at random times is in the end bitwise equal to an uninterrupted one."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest

from diffusion_lab.checkpoint import verify
from diffusion_lab.checkpoint.files import newest_valid
from tests.faults.conftest import AGAIN, TINY, Start
from tests.sameness import assert_same_run

pytestmark = pytest.mark.soak

KILLS = 50
LONG = ("training.epochs=400", "data.loading.num_workers=1", "training.visualization.interval=50")


@pytest.mark.parametrize("seed", [0])
def test_killed_fifty_times(start: Start, tmp_path: Path, seed: int) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    undisturbed = start("train.py", *TINY, *AGAIN, *LONG, folder=whole)
    assert undisturbed.wait(1800) == 0, undisturbed.err
    draw = random.Random(seed)
    checkpoints = killed / "run" / "checkpoints"
    kills = 0
    while True:
        program = start("train.py", *TINY, *AGAIN, *LONG, folder=killed)
        if program.ended(draw.uniform(0.2, 8)) is None and kills < KILLS:
            program.signal(signal.SIGKILL)
            assert program.wait() == -signal.SIGKILL
            kills += 1
            if (newest := newest_valid(checkpoints)) is not None:
                assert verify(newest)
            print(f"{time.strftime('%H:%M:%S')} kill {kills}: {newest.name if newest else 'nothing yet'}", flush=True)
            continue
        assert program.wait(1800) == 0, program.err
        if "already complete" in program.err or kills >= KILLS:
            break
    assert kills == KILLS, f"the run was complete after {kills} kills: make it longer"
    assert_same_run(killed / "run", whole / "run")
