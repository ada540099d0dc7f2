"""The images of a checkpoint that are evaluated: generated into a folder of their own, and made once."""

from __future__ import annotations

import hashlib
import json
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusion_lab.atomic_files import atomic_write
from diffusion_lab.config.schema import GenerateConfig, GenerateOutputSettings
from diffusion_lab.evaluation.targets import Target
from diffusion_lab.generate import generate
from diffusion_lab.redaction import redacted
from diffusion_lab.safe_files import read_json

TIMES = "sampling_times.json"
"""How many images were made in how many seconds, an entry for each command that made some."""


@dataclass(frozen=True)
class GeneratedSamples:
    """A folder of generated images; ``seconds`` is None where it is not known how long all of them took."""

    folder: Path
    count: int
    made: int
    seconds: float | None


def sample(config: GenerateConfig, target: Target, show_progress: bool = True) -> GeneratedSamples:
    """Generate images of a checkpoint, or find those that an earlier command has made.

    Args:
        config: How to sample, and how many images, the precision as it is on this device; its checkpoint and its folder
            are replaced by those of the target.
        target: The checkpoint, and the folder that the folder of images is made in.
        show_progress: Show a progress bar on standard error.

    Raises:
        As ``diffusion_lab.generate.generate``.
    """
    config = config.model_copy(update={"sampler": config.sampler.complete()})  # the same images have the same manifest
    name = folder_name(config)
    output = GenerateOutputSettings.model_validate({"base_dir": target.folder, "subdirs": {"generated": name}})
    generation = config.generation.model_copy(update={"checkpoint": target.checkpoint})
    started = time.monotonic()
    with warnings.catch_warnings():
        # Labels have the shares of the real images, and the measurement itself says which classes lack images.
        warnings.filterwarnings("ignore", message=r"generation\.sampling\.num_samples = .* classes")
        made = generate(
            config.model_copy(update={"output": output, "generation": generation}),
            show_progress,
            announce=False,
            renew=True,  # the name of the folder says which images these are, so others there are damaged ones
        )
    if made.made:
        _note(made.folder, made.made, made.count, time.monotonic() - started)
    return GeneratedSamples(made.folder, made.count, made.made, _seconds(made.folder, made.count))


def folder_name(config: GenerateConfig) -> str:
    """Return a name with the main settings of sampling, and a hash of all others.

    It does not depend on the number of images: more of them go into the same folder.
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
    told = hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:8]
    method = str(config.sampler.type).rpartition(".")[2]
    steps = f"-{sampler['steps']}" if isinstance(sampler.get("steps"), int) else ""
    scale = "-".join(f"{scale:g}" for scale in sampling.scales)
    return f"{method}{steps}_guidance-{scale}_seed-{config.compute.seed}_{told}"


def _note(folder: Path, made: int, count: int, seconds: float) -> None:
    earlier = _times(folder) if made < count else []  # those of removed images do not count
    entries = [*earlier, {"made": made, "seconds": round(seconds, 3)}]
    with atomic_write(folder / TIMES, durable=False) as partial:
        partial.write_text(json.dumps(entries) + "\n")


def _seconds(folder: Path, count: int) -> float | None:
    """The time that the images took; None where a command that was killed made some of them."""
    entries = _times(folder)
    if sum(entry["made"] for entry in entries) != count:
        return None
    return float(sum(entry["seconds"] for entry in entries))


def _times(folder: Path) -> list[dict[str, Any]]:
    try:
        found = read_json(folder / TIMES, 2**20)
        return [{"made": int(entry["made"]), "seconds": float(entry["seconds"])} for entry in found]
    except (OSError, ValueError, KeyError, TypeError):
        return []
