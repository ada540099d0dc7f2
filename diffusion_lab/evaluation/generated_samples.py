"""Generated images to evaluate: each combination of settings has its own folder, and is generated once."""

from __future__ import annotations

import hashlib
import json
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusion_lab.config.schema import GenerateConfig
from diffusion_lab.console.redaction import redacted
from diffusion_lab.evaluation.targets import Target
from diffusion_lab.files.reading import read_json
from diffusion_lab.files.writing import atomic_write
from diffusion_lab.generation.generate import generate

TIMES = "sampling_times.json"
"""File with the number of images and the seconds of each command that generated images."""


@dataclass(frozen=True)
class GeneratedSamples:
    """Folder of generated images; ``seconds`` is None if the time of some of them is unknown."""

    folder: Path
    count: int
    made: int
    seconds: float | None


def sample(config: GenerateConfig, target: Target, show_progress: bool = True) -> GeneratedSamples:
    """Generate images of a checkpoint, or find those that an earlier command generated.

    Args:
        config: Settings of the generation, with the precision of this device; its checkpoint and its output folder are
            replaced by those of the target.
        target: The checkpoint, and the parent folder of the folder of images.
        show_progress: Whether to show a progress bar on standard error.

    Raises:
        Exception: Any error of ``diffusion_lab.generation.generate.generate``.
    """
    config = config.model_copy(update={"sampler": config.sampler.complete()})  # equal images have equal manifests
    name = folder_name(config)
    subfolders = config.output.subdirs.model_copy(update={"generated": name})
    output = config.output.model_copy(update={"base_dir": target.folder, "subdirs": subfolders})
    generation = config.generation.model_copy(update={"checkpoint": target.checkpoint})
    started = time.monotonic()
    with warnings.catch_warnings():
        # Labels have the frequencies of the real images, and the measurement notes which classes lack images.
        warnings.filterwarnings("ignore", message=r"generation\.sampling\.num_samples = .* classes")
        output_folder = generate(
            config.model_copy(update={"output": output, "generation": generation}),
            show_progress,
            announce=False,
            renew=True,  # the folder name identifies the images, so other ones in it are damaged
        )
    folder, count, made = output_folder.folder, output_folder.count, output_folder.made
    if made:
        _record_time(folder, made, count, time.monotonic() - started)
    return GeneratedSamples(folder, count, made, _seconds(folder, count))


def folder_name(config: GenerateConfig) -> str:
    """Return a name with the main settings of sampling, and a hash of all settings.

    It does not depend on the number of images: more of them are added to the same folder.
    """
    sampling = config.generation.sampling
    sampler = redacted(config.sampler.complete().model_dump(mode="json"))
    tree = {
        "sampler": sampler,
        "guidance": config.guidance.model_dump(mode="json"),
        "seed": config.compute.seed,
        **sampling.model_dump(mode="json", include={"guidance_scale", "use_ema", "ema_decay", "labels", "precision"}),
        "model": None if config.model is None else config.model.model_dump(mode="json"),
    }
    digest = hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:8]
    method = str(config.sampler.type).rpartition(".")[2]
    steps = f"-{sampler['steps']}" if isinstance(sampler.get("steps"), int) else ""
    scale = "-".join(f"{scale:g}" for scale in sampling.scales)
    return f"{method}{steps}_guidance-{scale}_seed-{config.compute.seed}_{digest}"


def _record_time(folder: Path, made: int, count: int, seconds: float) -> None:
    earlier = _times(folder) if made < count else []  # entries of removed images are dropped
    entries = [*earlier, {"made": made, "seconds": round(seconds, 3)}]
    with atomic_write(folder / TIMES, durable=False) as partial:
        partial.write_text(json.dumps(entries) + "\n")


def _seconds(folder: Path, count: int) -> float | None:
    """Return the sampling time of all images; None if a killed command generated some of them."""
    entries = _times(folder)
    if sum(entry["made"] for entry in entries) != count:
        return None
    return float(sum(entry["seconds"] for entry in entries))


def _times(folder: Path) -> list[dict[str, Any]]:
    try:
        entries = read_json(folder / TIMES, 2**20)
        return [{"made": int(entry["made"]), "seconds": float(entry["seconds"])} for entry in entries]
    except (OSError, ValueError, KeyError, TypeError):
        return []
