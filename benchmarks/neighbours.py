"""Training next to other busy programs, as on a lab's server, in a sweep or in CI.

    python -m benchmarks.neighbours [--json] [--rounds 3]

A neighbour multiplies matrices in one process for every two cores. Next to k of them a fair share of the machine is
2/(k + 2), so a run may take (k + 2)/2 times as long, and 1.3 times that is the bound. Each figure is the images per
second in the summary of a complete `train.py` in its own process; the peer is a loop of diffusers of about the same
arithmetic. Runs on an idle machine are compared with runs that use torch's default threads and waiting.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from benchmarks import equal_work
from benchmarks.harness import Row, command, print_progress
from benchmarks.report import ROOT
from benchmarks.training_step import noising, peer_step
from diffusion_lab.runtime.threads import SPIN_VARIABLES, usable_cores

GOAL = "10"
MAX_NEIGHBOURS = 2
TOLERANCE = 1.3
MIN_IDLE_SHARE = 0.98

RUNS = {
    "experiment=fast_debug": ("experiment=fast_debug", "training.epochs=8", "training.checkpointing.save_frequency=8"),
    "digits": ("training.epochs=4",),
}
ALWAYS = ("logger=none", "compute.device=cpu", "training.visualization.enabled=false")
LEFT_TO_TORCH = {"GOMP_SPINCOUNT": "300000"}
"""GNU OpenMP's default for as many threads as cores."""

PEER_BATCH, PEER_STEPS, PEER_WARM_UP, PEER_SECONDS = 64, 60, 3, 8.0
PEER_NETWORK = {
    "image_size": 8,
    "in_channels": 1,
    "model_channels": 32,
    "channel_multipliers": [1, 2],
    "use_attention": [False, True],
}


def images_per_second(overrides: tuple[str, ...], environment: dict[str, str] | None = None) -> float:
    """Return the speed of a run of `train.py`, from its own summary."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        start = [sys.executable, str(ROOT / "train.py"), *overrides, *ALWAYS, f"output.base_dir={run}"]
        subprocess.run(start, env=_environment() | (environment or {}), check=True, capture_output=True, cwd=folder)
        speed: float = json.loads((run / "summary.json").read_text(encoding="utf-8"))["images_per_second"]
        return speed


def peer_images_per_second() -> float:
    """Return the speed of the loop of diffusers in a separate process."""
    loop = [sys.executable, "-m", "benchmarks.neighbours", "peer"]
    done = subprocess.run(loop, env=_environment(), check=True, capture_output=True, text=True, cwd=ROOT)
    return float(done.stdout.split()[-1])


def run_peer() -> None:
    """Make the steps of the peer, or those that fit into the time, and print images per second."""
    images = torch.randn(PEER_BATCH, 1, 8, 8).clamp(-1, 1)
    network = equal_work.diffusers_unet(PEER_NETWORK)
    step = peer_step(network, lambda noisy, times: network(noisy, times).sample, noising(images), bf16=False)
    for _ in range(PEER_WARM_UP):
        step()
    began, steps = time.perf_counter(), 0
    while steps < PEER_STEPS and (not steps or time.perf_counter() - began < PEER_SECONDS):
        step()
        steps += 1
    print(PEER_BATCH * steps / (time.perf_counter() - began))


def keep_busy() -> None:
    """Multiply matrices on one core for as long as the benchmark runs."""
    torch.set_num_threads(1)
    values, parent = torch.randn(512, 512), os.getppid()
    print("busy", flush=True)
    while os.getppid() == parent:
        values = (values @ values).tanh()


@contextlib.contextmanager
def neighbours(count: int) -> Iterator[None]:
    """Keep half of the cores busy for each neighbour."""
    busy = [sys.executable, "-m", "benchmarks.neighbours", "busy"]
    with contextlib.ExitStack() as stack:
        for _ in range(count * max(1, usable_cores() // 2)):
            process = stack.enter_context(subprocess.Popen(busy, stdout=subprocess.PIPE, cwd=ROOT))
            stack.callback(process.kill)
            assert process.stdout is not None
            process.stdout.readline()
        yield


def measure(rounds: str = "3") -> list[Row]:
    """Return a row for each program and number of neighbours: the median of the rounds, measured alternately."""
    ways: dict[str, Callable[[], float]] = {
        f"training, {name}": lambda overrides=overrides: images_per_second(overrides)  # type: ignore[misc]
        for name, overrides in RUNS.items()
    }
    if not equal_work.missing_peers():
        ways["a loop of diffusers"] = peer_images_per_second
    speeds: dict[tuple[str, int], list[float]] = {}
    left_to_torch: list[float] = []
    threads = (f"compute.threads={torch.get_num_threads()}",)
    for number in range(int(rounds)):
        print_progress(f"next to neighbours, round {number + 1} of {rounds}")
        for count in range(MAX_NEIGHBOURS + 1):
            with neighbours(count):
                for name, speed in ways.items():
                    speeds.setdefault((name, count), []).append(speed())
        left_to_torch.append(images_per_second(RUNS["digits"] + threads, LEFT_TO_TORCH))
    medians = {case: statistics.median(values) for case, values in speeds.items()}
    shared = [case for case in medians if case[1]]
    return [_idle_row(medians["training, digits", 0], statistics.median(left_to_torch)), *map(_row(medians), shared)]


def _idle_row(ours: float, torchs: float) -> Row:
    what = "training, digits, idle machine"
    return Row(GOAL, what, ours, torchs, "images/s", ours / torchs, MIN_IDLE_SHARE, note="torch's default threads")


def _row(medians: dict[tuple[str, int], float]) -> Callable[[tuple[str, int]], Row]:
    def row(case: tuple[str, int]) -> Row:
        name, count = case
        bound = TOLERANCE * (count + 2) / 2 if name.startswith("training") else None
        alone, now = medians[name, 0], medians[case]
        what = f"{name}, next to {count} busy neighbour{'s' if count > 1 else ''}"
        return Row(GOAL, what, now, alone, "images/s", alone / now, bound, at_least=False, note="peer: the same, alone")

    return row


def _environment() -> dict[str, str]:
    """Return the environment of a user, without what this process has set for its threads."""
    return {name: value for name, value in os.environ.items() if name not in SPIN_VARIABLES}


if __name__ == "__main__":
    special = {"busy": keep_busy, "peer": run_peer}
    if sys.argv[1:] and sys.argv[1] in special:
        special[sys.argv[1]]()
    else:
        command("neighbours", measure, rounds="3")
