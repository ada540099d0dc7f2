"""Completing a folder of generated images: the missing images, the manifest, the grid and the arrays."""

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
from diffusion_lab.console.terminal import printable
from diffusion_lab.files.reading import open_regular, parse_json
from diffusion_lab.files.writing import atomic_write
from diffusion_lab.generation.arrays import ARRAYS, read_labels, read_pixels, write_arrays
from diffusion_lab.generation.images import ImageStore, NullStore, PngStore, RawStore
from diffusion_lab.generation.manifest import matching_digests, open_manifest, read_lines
from diffusion_lab.generation.open_folder import GRID, GenerationFolder
from diffusion_lab.generation.request import PNG_KEY
from diffusion_lab.guidance import Guidance
from diffusion_lab.image_grids import ClassGrid, image_grid
from diffusion_lab.runs.startup_lines import pluralize
from diffusion_lab.runtime.exit_on_signals import Terminated
from diffusion_lab.sampling import DiffusionSampler, SampleBatch
from diffusion_lab.sampling.finite_samples import NonFiniteSamplesError
from diffusion_lab.shapes import Images, to_pixels

MAX_GRID_ROWS = 100
"""Maximum rows of the grid; further images are only in their own files."""


@dataclass(frozen=True)
class Generation:
    """Result of a generation run; ``made`` of the ``count`` images in the folder are new.

    ``weights`` are those used for the images: averaged (``"ema"``) or raw (``"raw"``); raw weights are used, with a
    warning, if the checkpoint holds no averaged ones.
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
        images = f"{pluralize(self.count, 'image')}{of_raw} in {self.folder}{complete}"
        return "\n".join(map(str, filter(None, (images, self.grid, self.npz))))


class Completion:
    """One attempt to complete a generation, which may be interrupted and repeated."""

    def __init__(
        self, config: GenerateConfig, target: GenerationFolder, sampler: DiffusionSampler, show_progress: bool
    ) -> None:
        self.config, self.target, self.request = config, target, target.request
        self.sampler, self.show_progress = sampler, show_progress
        self.output = config.generation.output
        self.columns = min(self.output.grid_nrow, target.count)
        most = min(target.count, MAX_GRID_ROWS * self.output.grid_nrow)
        labels = self._labels(range(most))
        self.grid: ClassGrid | None = None
        if labels is not None:
            scales = [self.request.scale(index) for index in range(most)]
            names, columns = self.request.class_names, self.output.grid_nrow
            self.grid = ClassGrid(labels, names, columns, scales, most_rows=MAX_GRID_ROWS)
        self.shown = most if self.grid is None else len(self.grid.indices)

    def complete(self) -> Generation:
        """Generate whatever is missing."""
        recorded = matching_digests(self.target.path, self.request)
        lines = sum(1 for _ in read_lines(self.target.path))
        all_recorded = len(recorded) == lines == self.target.count
        finished = all_recorded and not self.target.unfinished and self._has_summaries(recorded)
        store = self._create_store()
        if finished and not store.keeps_images:
            store.close()
            return self._result(made=0)
        digests = store.find_finished(self.target.count, recorded)
        if finished and digests == recorded:
            return self._result(made=0)
        done = sum(digest is not None for digest in digests)
        self.target.begin()
        if done and self.show_progress:
            print(self._continuation_message(done), file=sys.stderr)
        try:
            self._generate(store, digests)
            self._summarize(store)
        except (KeyboardInterrupt, Terminated) as stop:
            stop.add_note(f"run the same command again to continue with the images in {self.target.path}")
            raise
        except NonFiniteSamplesError as error:
            raise NonFiniteSamplesError(f"{error.finding}; {self._finished_message(digests)}", error.advice) from error
        self.target.finish()
        store.close()
        return self._result(made=self.target.count - done)

    def _finished_message(self, digests: Sequence[str | None]) -> str:
        """Describe what remains of a generation that stopped because images were not finite."""
        count = sum(digest is not None for digest in digests)
        if not count:
            return "no image was finished"
        text = f"{count} of {self.target.count} images are finite and stay in {printable(self.target.path)}"
        summarized = self.output.save_grid or self.output.save_npz
        if self.output.save_individual or not summarized:
            return text
        return f"{text} (num_samples={count} makes grid and arrays of them)"

    def _continuation_message(self, done: int) -> str:
        if done == self.target.count:
            return f"All {done} images are in {printable(self.target.path)}; the manifest, grid or arrays are renewed."
        return f"Continuing in {printable(self.target.path)}: {done} of {self.target.count} images are there."

    def _create_store(self) -> ImageStore:
        is_needed = self.output.save_grid or self.output.save_npz
        store = PngStore if self.output.save_individual else RawStore if is_needed else NullStore
        return store(self.target.path, self.request, self.sampler.model.image_shape)

    def _generate(self, store: ImageStore, digests: list[str | None]) -> None:
        """Generate the images without a digest, batched as in an uninterrupted run, since rounding depends on it."""
        spans = list(_missing_spans(digests, self.config.generation.sampling.batch_size))
        begin = spans[0].start if spans else len(digests)
        with open_manifest(self.target.path, self.request, begin, digests) as extend:
            for span in spans:
                extend(span.start)
                try:
                    for batch in self._stream(span):
                        indices = range(batch.first, batch.first + len(batch.images))
                        self._store_images(store, indices, batch.images, digests)
                        extend(indices.stop)
                except NonFiniteSamplesError as error:
                    if error.images is not None:
                        self._store_images(store, error.indices, error.images, digests)
                    extend(len(digests))
                    raise
            extend(len(digests))

    def _store_images(
        self, store: ImageStore, indices: Sequence[int], images: Images, digests: list[str | None]
    ) -> None:
        """Store images ``(N, C, H, W)`` in [-1, 1] and record their digests."""
        pixels = to_pixels(images).cpu()
        for index, image in zip(store.add(indices, pixels), pixels, strict=False):
            digests[index] = digests[index] or self.request.digest(index, image)

    def _stream(self, span: range) -> Iterator[SampleBatch]:
        return self.sampler.stream(
            len(span),
            self._labels(span),
            [self.request.scale(index) for index in span],
            show_progress=self.show_progress,
            sampler=self.config.sampler.build(),
            guidance=Guidance(**dict(self.config.guidance)),
            seed=self.request.metadata["seed"],
            batch_size=self.config.generation.sampling.batch_size,
            first=span.start,
            batch_size_name="generation.sampling.batch_size",
        )

    def _summarize(self, store: ImageStore) -> None:
        """Write the grid and the arrays from the stored images."""
        count = self.target.count
        if self.output.save_grid:
            if self.grid is None:
                grid = image_grid(torch.stack([store.read(index) for index in range(self.shown)]), self.columns)
            else:
                grid = self.grid.draw(store.read)
            text = PngInfo()
            text.add_text(PNG_KEY, json.dumps(self._about_grid))
            with atomic_write(self.target.path / GRID) as path:
                grid.save(path, "PNG", pnginfo=text)
        if self.output.save_npz:
            shape = (count, *store.shape)
            write_arrays(self.target.path / ARRAYS, map(store.read, range(count)), shape, self._labels(range(count)))

    def _has_summaries(self, recorded: Sequence[str]) -> bool:
        """Return whether the requested grid and arrays exist and match the recorded digests and the labels."""
        grid, arrays = self.target.path / GRID, self.target.path / ARRAYS
        if self.output.save_grid and _read_png_text(grid) != self._about_grid:
            return False
        if not self.output.save_npz:
            return True
        if read_labels(arrays) != tuple(self._labels(range(len(recorded))) or ()):
            return False
        return recorded == [self.request.digest(index, pixels) for index, pixels in enumerate(read_pixels(arrays))]

    def _labels(self, indices: range) -> list[int] | None:
        """Return the labels of images; None for an unconditional model."""
        return [label for label in map(self.request.label, indices) if label is not None] or None

    @property
    def _about_grid(self) -> dict[str, Any]:
        metadata = {"images": self.shown, "columns": self.columns}
        return metadata if self.grid is None else {**metadata, "rows": "classes"}

    def _result(self, made: int) -> Generation:
        grid = self.target.path / GRID if self.output.save_grid else None
        npz = self.target.path / ARRAYS if self.output.save_npz else None
        return Generation(self.target.path, self.target.count, grid, npz, made, self.sampler.model.weights)


def _missing_spans(digests: Sequence[str | None], batch_size: int) -> Iterator[range]:
    """Yield the ranges of complete batches in which an image is missing; adjacent batches are merged."""
    starts = range(0, len(digests), batch_size)
    for is_missing, batches in groupby(starts, lambda start: not all(digests[start : start + batch_size])):
        if is_missing:
            group = list(batches)
            yield range(group[0], min(group[-1] + batch_size, len(digests)))


def _read_png_text(path: Path) -> Any:
    """Return the JSON that this project wrote into a PNG; None if the file is missing, damaged or foreign."""
    try:
        with open_regular(path) as file, Image.open(file, formats=["PNG"]) as image:
            content = parse_json(image.info.get(PNG_KEY, "null"), str(path))
            image.verify()
    except (OSError, SyntaxError, ValueError, TypeError, Image.DecompressionBombError):
        return None
    return content
