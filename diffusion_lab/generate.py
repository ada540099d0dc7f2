"""Generation from settings: images from a checkpoint alone, on disk as they are made."""

from __future__ import annotations

import json
import secrets
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL.PngImagePlugin import PngInfo

from diffusion_lab.checkpoint import file_hash, find_checkpoint, read_checkpoint
from diffusion_lab.config.doubts import doubts_about_guidance, doubts_about_rounds, doubts_about_shares
from diffusion_lab.config.faults import ConfigWarning
from diffusion_lab.config.schema import GenerateConfig, SamplingSettings
from diffusion_lab.denoiser import Denoiser
from diffusion_lab.devices import resolve_device
from diffusion_lab.guidance import Guidance
from diffusion_lab.pictures import adm_arrays, grid_of, image_of
from diffusion_lab.run_folder import check_writable
from diffusion_lab.sampling import DiffusionSampler, SampleBatch
from diffusion_lab.shapes import Pixels, to_pixels

PNG_KEY = "diffusion_lab"
"""Key of the text chunk in each PNG that holds its line of the manifest."""

MOST_GRID_ROWS = 100
"""Rows of the grid; images beyond it are in their own files alone."""


@dataclass(frozen=True)
class Generation:
    """What a generation run has written."""

    folder: Path
    count: int
    grid: Path | None
    npz: Path | None

    def __str__(self) -> str:
        return "\n".join(map(str, filter(None, (f"{self.count} images in {self.folder}", self.grid, self.npz))))


def generate(config: GenerateConfig, show_progress: bool = True) -> Generation:
    """Make images from a checkpoint and write them into ``output.base_dir/output.subdirs.generated``.

    Each image goes to disk, and a line into ``manifest.jsonl``, as soon as its batch is done.

    Args:
        config: The checked settings.
        show_progress: Show a progress bar on standard error.

    Raises:
        ValueError, FileNotFoundError, PermissionError: Naming key, value and rule, before anything is written.
    """
    device = resolve_device(config.compute.device)
    path = find_checkpoint(config.generation.checkpoint or "")
    sampling = config.generation.sampling
    denoiser, decay = _load(path, config)
    labels = choose_labels(denoiser, sampling.labels, sampling.num_samples)
    scales = choose_scales(sampling.scales, _labels_a_round(sampling, denoiser), sampling.num_samples)
    for doubt in _doubts(sampling, denoiser):
        warnings.warn(doubt, ConfigWarning, stacklevel=2)
    sampler = config.sampler.build()
    seed = secrets.randbits(32) if config.compute.seed is None else config.compute.seed
    batches = DiffusionSampler(denoiser, device).stream(
        sampling.num_samples,
        labels,
        scales,
        show_progress=show_progress,
        sampler=sampler,
        guidance=Guidance(**dict(config.guidance)),
        seed=seed,
        batch_size=sampling.batch_size,
    )
    steps = len(sampler.levels(denoiser.schedule)) - 1
    about = {**_about(config, path), "seed": seed, "steps": steps, "ema_decay": decay}
    folder = config.output.folder("generated")
    _make_room(folder, config.output.overwrite)
    return _write(config, batches, folder, about, _told(denoiser, labels, scales), labels)


def _load(path: Path, config: GenerateConfig) -> tuple[Denoiser, float | None]:
    """The model, and the decay of the average that its weights are."""
    checkpoint, sampling = read_checkpoint(path), config.generation.sampling
    denoiser = checkpoint.denoiser(sampling.use_ema, config.model, sampling.ema_decay)
    return denoiser, checkpoint.chosen_decay(sampling.use_ema, sampling.ema_decay)


def _about(config: GenerateConfig, path: Path) -> dict[str, Any]:
    """What the manifest says of every image."""
    return {
        "sampler": config.sampler.type,
        "sampler_options": config.sampler.extra_options,
        "guidance_interval": config.guidance.interval,
        "guidance_rescale": config.guidance.rescale,
        "use_ema": config.generation.sampling.use_ema,
        "checkpoint": str(path),
        "checkpoint_sha256": file_hash(path),
    }


def _doubts(sampling: SamplingSettings, denoiser: Denoiser) -> Iterator[str]:
    """What is allowed and yet unlikely to be meant of this model."""
    section = "generation.sampling"
    if denoiser.num_classes is None:
        yield from doubts_about_guidance(f"{section}.guidance_scale", sampling.guidance_scale)
    else:
        labels = _labels_a_round(sampling, denoiser)
        yield from doubts_about_shares(f"{section}.num_samples", sampling.num_samples, labels)
        yield from doubts_about_rounds(f"{section}.num_samples", sampling.num_samples, labels, len(sampling.scales))


def _labels_a_round(sampling: SamplingSettings, denoiser: Denoiser) -> int:
    """Number of images until the labels begin anew."""
    return len(sampling.labels) if sampling.labels is not None else denoiser.num_classes or 1


def choose_labels(denoiser: Denoiser, wanted: Sequence[int | str] | None, num_samples: int) -> list[int] | None:
    """The label of each image: the wanted ones in turn, all classes where none are named.

    In turn spreads them evenly, the remainder over the first ones, and lets image i have the same label whatever the
    number of images. None for an unconditional model.

    Args:
        denoiser: The model.
        wanted: Class numbers or names.
        num_samples: Number of images.

    Raises:
        ValueError: A label that is no class of the model, or labels for an unconditional model.
    """
    if denoiser.num_classes is None:
        if wanted is not None:
            raise ValueError(f"generation.sampling.labels must be null for an unconditional model, got {list(wanted)}")
        return None
    numbers = range(denoiser.num_classes) if wanted is None else [_class_number(denoiser, label) for label in wanted]
    return [numbers[index % len(numbers)] for index in range(num_samples)]


def choose_scales(wanted: Sequence[float], labels: int, num_samples: int) -> list[float]:
    """The guidance scale of each image: the wanted ones in turn, each for a whole round of the labels.

    So a grid with as many columns as there are labels has one scale a row.

    Args:
        wanted: Scales, at least one.
        labels: Number of labels in a round.
        num_samples: Number of images.
    """
    return [wanted[index // labels % len(wanted)] for index in range(num_samples)]


def _class_number(denoiser: Denoiser, label: int | str) -> int:
    if isinstance(label, str) and label in denoiser.class_names:
        return denoiser.class_names.index(label)
    if isinstance(label, int) and denoiser.num_classes is not None and 0 <= label < denoiser.num_classes:
        return label
    names = f" ({', '.join(denoiser.class_names)})" if denoiser.class_names else ""
    raise ValueError(
        f"generation.sampling.labels must be classes of the model, 0 to {(denoiser.num_classes or 0) - 1}{names}, "
        f"got {label!r}"
    )


def _make_room(folder: Path, overwrite: bool) -> None:
    """Make the folder; images of an earlier generation are an error, or are removed where the settings say so."""
    earlier = [*folder.glob("sample_*.png"), *(folder / name for name in ("manifest.jsonl", "grid.png", "samples.npz"))]
    earlier = [file for file in earlier if file.exists()]
    if earlier and not overwrite:
        raise ValueError(
            f"output.base_dir/output.subdirs.generated holds generated images already, got {str(folder)!r}: choose "
            "another folder or set output.overwrite=true"
        )
    check_writable(folder, "output.base_dir")
    folder.mkdir(parents=True, exist_ok=True)
    for stale in earlier:
        stale.unlink()


def _write(
    config: GenerateConfig,
    batches: Iterator[SampleBatch],
    folder: Path,
    about: dict[str, Any],
    told: Sequence[dict[str, Any]],
    labels: list[int] | None,
) -> Generation:
    output = config.generation.output
    shown = MOST_GRID_ROWS * output.grid_nrow
    made: list[Pixels] = []  # bytes: ten thousand images of 32×32 in colour take 30 MB
    with (folder / "manifest.jsonl").open("w") as manifest:
        for batch in batches:
            pixels = to_pixels(batch.images).cpu()
            for index, image in enumerate(pixels, start=batch.first):
                name = f"sample_{index:04d}.png" if output.save_individual else None
                line = {"file": name, "index": index, **told[index], **about}
                if name is not None:
                    text = PngInfo()
                    text.add_text(PNG_KEY, json.dumps(line))
                    image_of(image).save(folder / name, pnginfo=text)
                manifest.write(json.dumps(line) + "\n")
            manifest.flush()
            if output.save_grid or output.save_npz:
                made.append(pixels)
    grid = folder / "grid.png" if output.save_grid else None
    npz = folder / "samples.npz" if output.save_npz else None
    if grid is not None:
        grid_of(torch.cat(made)[:shown], min(output.grid_nrow, config.generation.sampling.num_samples)).save(grid)
    if npz is not None:
        np.savez(npz, **adm_arrays(torch.cat(made), None if labels is None else torch.tensor(labels)))  # type: ignore[arg-type]
    return Generation(folder, config.generation.sampling.num_samples, grid, npz)


def _told(denoiser: Denoiser, labels: list[int] | None, scales: list[float]) -> list[dict[str, Any]]:
    """What the manifest says of each image that differs from one to the next."""
    names = dict(enumerate(denoiser.class_names))
    return [
        {
            "label": None if labels is None else labels[index],
            "class_name": None if labels is None else names.get(labels[index]),
            "guidance_scale": scale,
        }
        for index, scale in enumerate(scales)
    ]
