"""Train one program on one dataset in its own process, then sample from each snapshot.

``benchmarks.quality`` calls ``python -m benchmarks.quality.program``, which writes ``result.json`` and one
``images_*.npy``, uint8 (N, C, H, W), per snapshot.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffusion_lab.shapes import Pixels

RESULT = "result.json"
OURS, LUCIDRAINS, DIFFUSERS = "ours", "denoising_diffusion_pytorch", "diffusers"
PROGRAMS = (OURS, LUCIDRAINS, DIFFUSERS)


@dataclass(frozen=True)
class Task:
    """Training and sampling of one program on one dataset.

    Args:
        program: One of ``PROGRAMS``.
        folder: Folder of training images.
        out: Output folder, which must not exist.
        seconds: Training time.
        images: Number of images to sample from the last snapshot; earlier ones get a quarter each.
        steps: Network evaluations per image.
        channels: Channels of the images.
        image_size: Side of the images in pixels.
        like: Folder of our result, whose number of parameters and batch size a peer uses; None for ours.
        arguments: Additional settings for ours, to try other defaults.
    """

    program: str
    folder: Path
    out: Path
    seconds: float
    images: int
    steps: int
    channels: int
    image_size: int
    like: Path | None = None
    arguments: tuple[str, ...] = ()

    def to_json(self) -> str:
        """Return the task as JSON, for the command line of its process."""
        return json.dumps(
            {name: str(value) if isinstance(value, Path) else value for name, value in vars(self).items()}
        )

    @classmethod
    def from_json(cls, text: str) -> Task:
        """Create the task from its JSON."""
        fields = json.loads(text)
        paths = {name: fields[name] and Path(fields[name]) for name in ("folder", "out", "like")}
        return cls(**{**fields, **paths, "arguments": tuple(fields["arguments"])})


def images_per_snapshot(snapshots: int, images: int) -> list[int]:
    """Return the number of images to sample from each snapshot: ``images`` from the last, a quarter from the others.

    The kernel distance is unbiased, so fewer images are enough for the points before the last.
    """
    return [*[max(images // 4, 1)] * (snapshots - 1), images]


def run_task(task: Task) -> None:
    """Train, sample and write the result."""
    task.out.mkdir(parents=True)
    outputs = _run_ours(task) if task.program == OURS else _run_peer(task)
    result: dict[str, Any] = {"program": task.program, "parameters": next(outputs), "snapshots": []}
    for seconds, pixels in outputs:
        assert isinstance(seconds, float)
        file = f"images_{len(result['snapshots'])}.npy"
        np.save(task.out / file, pixels.cpu().numpy())
        result["snapshots"].append({"seconds": round(seconds, 2), "images": file})
    result["batch_size"] = _batch_size(task)
    result["task"] = json.loads(task.to_json())
    (task.out / RESULT).write_text(json.dumps(result, indent=2) + "\n")


def _run_ours(task: Task) -> Iterator[Any]:
    """Yield the number of parameters, then training time and images of each snapshot."""
    from benchmarks.quality import ours

    ours.train(task.folder, task.out, task.seconds, list(task.arguments))
    yield ours.num_parameters(task.out)
    yield from ours.sample_snapshots(task.out, task.images, task.steps)


def _run_peer(task: Task) -> Iterator[Any]:
    """Yield the same as ``_run_ours`` for a peer."""
    from benchmarks.quality import diffusers_loop, lucidrains

    assert task.like is not None
    our_result = json.loads((task.like / RESULT).read_text())
    library: Any = lucidrains if task.program == LUCIDRAINS else diffusers_loop
    architecture = (our_result["parameters"], task.channels, task.image_size)
    yield sum(weights.numel() for weights in library.build_network(*architecture).parameters())
    snapshots = list(
        library.train(task.folder, task.out, task.seconds, architecture[0], _batch_size(task), *architecture[1:])
    )
    for (seconds, weights), images in zip(snapshots, images_per_snapshot(len(snapshots), task.images), strict=True):
        pixels: Pixels = library.sample(weights, images, task.steps, *architecture)
        yield seconds, pixels


def _batch_size(task: Task) -> int:
    if task.like is not None:
        size: int = json.loads((task.like / RESULT).read_text())["batch_size"]
        return size
    from benchmarks.quality import ours

    return ours.batch_size(task.out)


def main(arguments: Sequence[str]) -> None:
    """Parse the command line and run the task."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality.program")
    parser.add_argument("task", type=Task.from_json)
    run_task(parser.parse_args(arguments).task)


if __name__ == "__main__":
    main(sys.argv[1:])
