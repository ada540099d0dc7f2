"""One program on one set, in a process of its own: train, then draw from each snapshot.

``python -m benchmarks.quality.program`` is called by ``benchmarks.quality``; it leaves ``result.json`` and one
``images_*.npy`` for each snapshot, uint8 (N, C, H, W).
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
    """What a program is to do.

    Args:
        program: One of ``PROGRAMS``.
        folder: The pictures to train on.
        out: An empty folder for all that comes out.
        seconds: How long to train.
        images: How many to draw from the last snapshot; a quarter from each earlier one.
        steps: Evaluations of the network for an image.
        channels: Of the pictures.
        image_size: Their side in pixels.
        like: Folder of our result, whose parameters and batch size a peer takes; None for ours.
        arguments: Further settings of ours, to try what another default would do.
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

    def text(self) -> str:
        """The task as JSON, for the process that does it."""
        return json.dumps(
            {name: str(value) if isinstance(value, Path) else value for name, value in vars(self).items()}
        )

    @classmethod
    def of(cls, text: str) -> Task:
        """The task that ``text`` describes."""
        told = json.loads(text)
        paths = {name: told[name] and Path(told[name]) for name in ("folder", "out", "like")}
        return cls(**{**told, **paths, "arguments": tuple(told["arguments"])})


def images_of(snapshots: int, images: int) -> list[int]:
    """Return how many images to draw from each snapshot: all from the last one, a quarter from each of the others.

    The kernel distance has no bias, so points on the way need fewer images than the result.
    """
    return [*[max(images // 4, 1)] * (snapshots - 1), images]


def do(task: Task) -> None:
    """Train and draw."""
    task.out.mkdir(parents=True)
    found = _ours(task) if task.program == OURS else _peer(task)
    result: dict[str, Any] = {"program": task.program, "parameters": next(found), "snapshots": []}
    for seconds, pixels in found:
        assert isinstance(seconds, float)
        file = f"images_{len(result['snapshots'])}.npy"
        np.save(task.out / file, pixels.cpu().numpy())
        result["snapshots"].append({"seconds": round(seconds, 2), "images": file})
    result["batch_size"] = _batch_size(task)
    result["task"] = json.loads(task.text())
    (task.out / RESULT).write_text(json.dumps(result, indent=2) + "\n")


def _ours(task: Task) -> Iterator[Any]:
    from benchmarks.quality import ours

    ours.train(task.folder, task.out, task.seconds, list(task.arguments))
    yield ours.parameters(task.out)
    yield from ours.draw(task.out, task.images, task.steps)


def _peer(task: Task) -> Iterator[Any]:
    from benchmarks.quality import diffusers_loop, lucidrains

    assert task.like is not None
    like = json.loads((task.like / RESULT).read_text())
    library: Any = lucidrains if task.program == LUCIDRAINS else diffusers_loop
    form = (like["parameters"], task.channels, task.image_size)
    yield sum(weights.numel() for weights in library.network(*form).parameters())
    kept = list(library.train(task.folder, task.out, task.seconds, form[0], _batch_size(task), *form[1:]))
    for (seconds, weights), images in zip(kept, images_of(len(kept), task.images), strict=True):
        drawn: Pixels = library.draw(weights, images, task.steps, *form)
        yield seconds, drawn


def _batch_size(task: Task) -> int:
    if task.like is not None:
        size: int = json.loads((task.like / RESULT).read_text())["batch_size"]
        return size
    from benchmarks.quality import ours

    return ours.batch_size(task.out)


def main(words: Sequence[str]) -> None:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality.program")
    parser.add_argument("task", type=Task.of)
    do(parser.parse_args(words).task)


if __name__ == "__main__":
    main(sys.argv[1:])
