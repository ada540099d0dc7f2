"""Cost of sampling: overhead besides the network, speed against diffusers' pipeline, memory, and time for a quality.

    python -m benchmarks.sampling [--json] [--checkpoint outputs/demo]

The last row needs a checkpoint of the digits (`make demo` trains one); DDPM's 1,000 steps take most of the time.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks import equal_work
from benchmarks.harness import Row, command, not_measured, print_progress, time_alternately, time_in_processes
from benchmarks.samplers import Counted, curve_samplers, draw
from diffusion_lab import DiffusionSampler, load_denoiser
from diffusion_lab.cpu import cpu_optimizations
from diffusion_lab.denoiser import Denoiser
from diffusion_lab.evaluation.digits import DigitEvaluator
from diffusion_lab.samplers import DDIMSampler, DDPMSampler, Sampler

ROOT = Path(__file__).resolve().parents[1]
ROUNDS = 5
STEPS, PIPELINE_STEPS = 5, 10
SHORT_ROUNDS, SMALL_BATCH = 11, 4
"""Many short rounds, for comparisons to a few percent: the speed of the machine changes from second to second."""
FEW, MANY = 100, 10_000
"""Numbers of images whose memory is compared."""
PER_CLASS = 25
"""Digits of each class for measuring quality, as in docs/samplers.md."""

SMALL = {"image_size": 32, "in_channels": 3, "model_channels": 8, "channel_multipliers": [1], "use_attention": [False]}
"""A small network, so that memory depends on the images."""

# It prints its peak memory in the last line.
PEAK = """
import runpy, sys
sys.argv = ["sample.py", *sys.argv[1:]]
runpy.run_path("sample.py", run_name="__main__")
from diffusion_lab.runtime.memory import peak_bytes
print(peak_bytes())
"""


def loop_row() -> Row:
    """Compare N steps with N forward passes of the bare network."""
    denoiser = equal_work.our_denoiser().eval()
    images, time = torch.randn(SMALL_BATCH, *equal_work.IMAGE_SHAPE), torch.tensor([0.5])
    front = DiffusionSampler(denoiser)

    def passes() -> None:
        with torch.no_grad(), cpu_optimizations(front.device, fixed=denoiser):
            for _ in range(STEPS):
                denoiser.network(images, time)

    ways: dict[str, Callable[[], object]] = {"sampling": lambda: sample(front, SMALL_BATCH, STEPS), "passes": passes}
    taken = time_alternately(ways, SHORT_ROUNDS)
    return Row(
        "5",
        f"{STEPS} steps of DDIM, batch {SMALL_BATCH}",
        taken.median("sampling"),
        taken.median("passes"),
        "s",
        taken.ratio("sampling", "passes"),
        1.03,
        at_least=False,
        note="as many forward passes",
    )


def sample(front: DiffusionSampler, batch: int, steps: int) -> torch.Tensor:
    """Sample a batch by a few steps of DDIM."""
    return front.sample(batch, sampler=DDIMSampler(steps=steps), seed=0)


def pipeline_row() -> Row:
    """Compare ours with diffusers' `DDIMPipeline`, which returns tensors or arrays, each in a separate process."""
    what = f"{PIPELINE_STEPS} steps of DDIM at equal work"
    if equal_work.missing_peers():
        return not_measured("5", what, f"needs {equal_work.missing_peers()}, of the extra peers")
    taken = time_in_processes({"ours": our_pipeline, "peer": their_pipeline}, ROUNDS)
    ours, peers = (equal_work.BATCH / taken.median(way) for way in ("ours", "peer"))
    return Row("5", what, ours, peers, "images/s", taken.ratio("peer", "ours"), 1.5, note="diffusers DDIMPipeline")


def our_pipeline() -> Callable[[], object]:
    """Return a function that samples a batch with ours."""
    front = DiffusionSampler(equal_work.our_denoiser())
    return lambda: sample(front, equal_work.BATCH, PIPELINE_STEPS)


def their_pipeline() -> Callable[[], object]:
    """Return a function that samples a batch with diffusers."""
    diffusers = equal_work.peer("diffusers")
    pipeline = diffusers.DDIMPipeline(equal_work.diffusers_unet().eval(), diffusers.DDIMScheduler())
    pipeline.set_progress_bar_config(disable=True)
    return lambda: pipeline(batch_size=equal_work.BATCH, num_inference_steps=PIPELINE_STEPS, output_type="np")


def calls_rows() -> list[Row]:
    """Count forward passes of the network and time embeddings in a guided step."""
    network, embedded = count_guided_steps()
    counts = ("passes of the network in a guided step", network), ("times embedded in a guided step", embedded)
    return [
        Row("5", what, count / STEPS, 1, "", count / STEPS, 1.0, at_least=False, note="one is needed")
        for what, count in counts
    ]


def count_guided_steps() -> tuple[int, int]:
    """Count forward passes, and rows of embedded times, in ``STEPS`` guided steps of two images."""
    denoiser = equal_work.our_denoiser(num_classes=10)
    rows = 0

    def count_rows(module: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        nonlocal rows
        rows += len(given[0])

    watch = denoiser.network.get_submodule("embed_time").register_forward_pre_hook(count_rows)
    denoiser.network = counted = Counted(denoiser.network)
    DiffusionSampler(denoiser).sample(2, [1, 2], 3.0, sampler=DDIMSampler(steps=STEPS), seed=0)
    watch.remove()
    return counted.count, rows


def peak_memory(count: int, checkpoint: Path, folder: Path) -> int:
    """Return the peak memory of `sample.py` for this number of images of two steps."""
    arguments = [f"ckpt={checkpoint}", f"num_samples={count}", f"output.base_dir={folder / str(count)}"]
    fast = ["sampler.steps=2", "generation.sampling.batch_size=100", "compute.device=cpu"]
    done = subprocess.run(
        [sys.executable, "-c", PEAK, *arguments, *fast], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    return int(done.stdout.splitlines()[-1])


def memory_row() -> Row:
    """Compare the memory of many images with that of few; the allocator varies by some percent between runs."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        equal_work.write_checkpoint(folder / "model.ckpt", SMALL)
        few, many = (
            statistics.median(peak_memory(count, folder / "model.ckpt", folder / str(turn)) for turn in range(3))
            for count in (FEW, MANY)
        )
    what = f"peak memory of sample.py, {MANY:,} images"
    return Row("5", what, many / 2**20, few / 2**20, "MiB", many / few, 1.05, at_least=False, note=f"{FEW} images")


def quality_row(checkpoint: Path) -> Row:
    """Find the cheapest sampler with images at least as good as those of DDPM with every step."""
    what = "seconds for the quality of 1,000-step DDPM"
    if not checkpoint.exists():
        return not_measured("5", what, "needs a checkpoint of the digits: make demo, or --checkpoint")
    denoiser, evaluator = load_denoiser(checkpoint), DigitEvaluator()
    long, target = _seconds_and_distance(denoiser, evaluator, DDPMSampler(steps=None))
    for evaluations in (10, 20, 50):
        methods = curve_samplers(evaluations)
        tried = {name: _seconds_and_distance(denoiser, evaluator, method) for name, method in methods.items()}
        good = {name: seconds for name, (seconds, distance) in tried.items() if distance <= target}
        if good:
            name = min(good, key=good.__getitem__)
            note = f"{name}, {evaluations} evaluations: {tried[name][1]:.2f} against {target:.2f}"
            return Row("5", what, good[name], long, "s", good[name] / long, 1 / 20, at_least=False, note=note)
    return not_measured("5", what, f"nothing up to 50 evaluations is as good as {target:.2f}")


def _seconds_and_distance(denoiser: Denoiser, evaluator: DigitEvaluator, method: Sampler) -> tuple[float, float]:
    drawn = draw(denoiser, method, PER_CLASS)
    return drawn.seconds, evaluator.pixel_fd_ratio(drawn.pixels)


def measure(checkpoint: str) -> list[Row]:
    """Return all rows."""
    parts: dict[str, Callable[[], list[Row]]] = {
        "the loop": lambda: [loop_row()],
        "diffusers' pipeline": lambda: [pipeline_row()],
        "guidance": calls_rows,
        "memory": lambda: [memory_row()],
        "quality": lambda: [quality_row(ROOT / checkpoint)],
    }
    rows = []
    for name, part in parts.items():
        print_progress(f"sampling: {name}")
        rows += part()
    return rows


def main() -> None:
    """Measure and print."""
    command("sampling", measure, checkpoint="outputs/demo")


if __name__ == "__main__":
    main()
