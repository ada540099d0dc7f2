"""What a folder of images lacks, made: the images, the manifest, the grid and the arrays."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from diffusion_lab.config.schema import GenerateConfig
from diffusion_lab.finiteness import NonFiniteSamplesError
from diffusion_lab.generation.arrays import ARRAYS, stored_labels, stored_pixels, write_arrays
from diffusion_lab.generation.folder import GRID, Opened
from diffusion_lab.generation.images import KeptImages, Nothing, PngFiles, RawBytes
from diffusion_lab.generation.interruption import Terminated
from diffusion_lab.generation.manifest import digests_told, manifest_from, read_lines
from diffusion_lab.generation.order import PNG_KEY
from diffusion_lab.guidance import Guidance
from diffusion_lab.pictures import ClassGrid, grid_of
from diffusion_lab.safe_files import open_regular, parse_json
from diffusion_lab.sampling import DiffusionSampler, SampleBatch
from diffusion_lab.shapes import Images, to_pixels
from diffusion_lab.start_lines import counted
from diffusion_lab.terminal import printable
from diffusion_lab.whole_files import written_whole

MOST_GRID_ROWS = 100
"""Rows of the grid; images beyond it are in their own files alone."""


@dataclass(frozen=True)
class Generation:
    """What a generation run has written; ``made`` of the ``count`` images there are new.

    ``weights`` are those that the images come from: averaged (``"ema"``) or as trained (``"raw"``), which are taken,
    with a warning, where the checkpoint holds no others.
    """

    folder: Path
    count: int
    grid: Path | None
    npz: Path | None
    made: int
    weights: Literal["raw", "ema"] | None = None

    def __str__(self) -> str:
        complete = "" if self.made else ": already complete, nothing was made"
        of_raw = " from the raw weights" if self.weights == "raw" else ""
        images = f"{counted(self.count, 'image')}{of_raw} in {self.folder}{complete}"
        return "\n".join(map(str, filter(None, (images, self.grid, self.npz))))


class Completion:
    """One attempt to complete a generation, which may be interrupted and repeated."""

    def __init__(self, config: GenerateConfig, room: Opened, sampler: DiffusionSampler, show_progress: bool) -> None:
        self.config, self.room, self.order = config, room, room.order
        self.sampler, self.show_progress = sampler, show_progress
        self.output = config.generation.output
        self.columns = min(self.output.grid_nrow, room.count)
        most = min(room.count, MOST_GRID_ROWS * self.output.grid_nrow)
        labels = self._labels(range(most))
        self.grid: ClassGrid | None = None
        if labels is not None:
            scales = [self.order.scale(index) for index in range(most)]
            names, columns = self.order.class_names, self.output.grid_nrow
            self.grid = ClassGrid(labels, names, columns, scales, most_rows=MOST_GRID_ROWS)
        self.shown = most if self.grid is None else len(self.grid.indices)

    def complete(self) -> Generation:
        """Make what lacks."""
        told = digests_told(self.room.path, self.order)
        lines = sum(1 for _ in read_lines(self.room.path))
        finished = len(told) == lines == self.room.count and not self.room.unfinished and self._has_summaries(told)
        kept = self._kept()
        if finished and not kept.outlive:
            kept.close()
            return self._result(made=0)
        digests = kept.done(self.room.count, told)
        if finished and digests == told:
            return self._result(made=0)
        done = sum(digest is not None for digest in digests)
        self.room.begin()
        if done and self.show_progress:
            print(self._said_of(done), file=sys.stderr)
        try:
            self._make(kept, digests)
            self._summarize(kept)
        except (KeyboardInterrupt, Terminated) as stop:
            stop.add_note(f"the same command again goes on with the images in {self.room.path}")
            raise
        except NonFiniteSamplesError as error:
            raise NonFiniteSamplesError(f"{error.finding}; {self._what_stays(digests)}", error.advice) from error
        self.room.finish()
        kept.close()
        return self._result(made=self.room.count - done)

    def _what_stays(self, digests: Sequence[str | None]) -> str:
        """Say what is left of a generation that stopped because images were not finite."""
        count = sum(digest is not None for digest in digests)
        if not count:
            return "no image was finished"
        text = f"{count} of {self.room.count} images are finite and stay in {printable(self.room.path)}"
        summarized = self.output.save_grid or self.output.save_npz
        if self.output.save_individual or not summarized:
            return text
        return f"{text} (num_samples={count} makes grid and arrays of them)"

    def _said_of(self, done: int) -> str:
        if done == self.room.count:
            return f"All {done} images are in {printable(self.room.path)}; the manifest, grid or arrays are renewed."
        return f"Continuing in {printable(self.room.path)}: {done} of {self.room.count} images are there."

    def _kept(self) -> KeptImages:
        wanted = self.output.save_grid or self.output.save_npz
        way = PngFiles if self.output.save_individual else RawBytes if wanted else Nothing
        return way(self.room.path, self.order, self.sampler.model.image_shape)

    def _make(self, kept: KeptImages, digests: list[str | None]) -> None:
        """Make the images without a digest, in the batches of an uninterrupted run, for rounding depends on those."""
        spans = list(_lacking(digests, self.config.generation.sampling.batch_size))
        begin = spans[0].start if spans else len(digests)
        with manifest_from(self.room.path, self.order, begin, digests) as extend:
            for span in spans:
                extend(span.start)
                try:
                    for batch in self._stream(span):
                        indices = range(batch.first, batch.first + len(batch.images))
                        self._keep(kept, indices, batch.images, digests)
                        extend(indices.stop)
                except NonFiniteSamplesError as error:
                    if error.images is not None:
                        self._keep(kept, error.indices, error.images, digests)
                    extend(len(digests))
                    raise
            extend(len(digests))

    def _keep(self, kept: KeptImages, indices: Sequence[int], images: Images, digests: list[str | None]) -> None:
        """Keep images ``(N, C, H, W)`` in [-1, 1], and note their digests."""
        pixels = to_pixels(images).cpu()
        for index, image in zip(kept.add(indices, pixels), pixels, strict=False):
            digests[index] = digests[index] or self.order.digest(index, image)

    def _stream(self, span: range) -> Iterator[SampleBatch]:
        return self.sampler.stream(
            len(span),
            self._labels(span),
            [self.order.scale(index) for index in span],
            show_progress=self.show_progress,
            sampler=self.config.sampler.build(),
            guidance=Guidance(**dict(self.config.guidance)),
            seed=self.order.about["seed"],
            batch_size=self.config.generation.sampling.batch_size,
            first=span.start,
            batch_size_name="generation.sampling.batch_size",
        )

    def _summarize(self, kept: KeptImages) -> None:
        """Grid and arrays, from the images that are kept."""
        count = self.room.count
        if self.output.save_grid:
            if self.grid is None:
                grid = grid_of(torch.stack([kept.read(index) for index in range(self.shown)]), self.columns)
            else:
                grid = self.grid.draw(kept.read)
            text = PngInfo()
            text.add_text(PNG_KEY, json.dumps(self._about_grid))
            with written_whole(self.room.path / GRID) as path:
                grid.save(path, "PNG", pnginfo=text)
        if self.output.save_npz:
            shape = (count, *kept.shape)
            write_arrays(self.room.path / ARRAYS, map(kept.read, range(count)), shape, self._labels(range(count)))

    def _has_summaries(self, told: Sequence[str]) -> bool:
        """Whether grid and arrays are there where they are wanted, and hold the images with the digests ``told``.

        The arrays must hold the labels as well.
        """
        grid, arrays = self.room.path / GRID, self.room.path / ARRAYS
        if self.output.save_grid and _text_of(grid) != self._about_grid:
            return False
        if not self.output.save_npz:
            return True
        if stored_labels(arrays) != tuple(self._labels(range(len(told))) or ()):
            return False
        return told == [self.order.digest(index, pixels) for index, pixels in enumerate(stored_pixels(arrays))]

    def _labels(self, indices: range) -> list[int] | None:
        """The labels of images; None for an unconditional model."""
        return [label for label in map(self.order.label, indices) if label is not None] or None

    @property
    def _about_grid(self) -> dict[str, Any]:
        about = {"images": self.shown, "columns": self.columns}
        return about if self.grid is None else {**about, "rows": "classes"}

    def _result(self, made: int) -> Generation:
        grid = self.room.path / GRID if self.output.save_grid else None
        npz = self.room.path / ARRAYS if self.output.save_npz else None
        return Generation(self.room.path, self.room.count, grid, npz, made, self.sampler.model.weights)


def _lacking(digests: Sequence[str | None], batch_size: int) -> Iterator[range]:
    """The images in whole batches of which one is not done, neighbouring batches together."""
    starts = range(0, len(digests), batch_size)
    for lacks, batches in groupby(starts, lambda start: not all(digests[start : start + batch_size])):
        if lacks:
            group = list(batches)
            yield range(group[0], min(group[-1] + batch_size, len(digests)))


def _text_of(picture: Path) -> Any:
    """What is told in a picture; None where it is not there, damaged, or not ours."""
    try:
        with open_regular(picture) as file, Image.open(file, formats=["PNG"]) as image:
            told = parse_json(image.info.get(PNG_KEY, "null"), str(picture))
            image.verify()
    except (OSError, SyntaxError, ValueError, TypeError, Image.DecompressionBombError):
        return None
    return told
