"""Evaluating images that are there: folders and npz files, compared with a folder or with the data of a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from diffusion_lab.checkpoint import find_checkpoint, read_checkpoint
from diffusion_lab.config.evaluate_schema import EvaluateConfig
from diffusion_lab.config.evaluation_section import MIN_IMAGES
from diffusion_lab.data.source import ImageSource, Subset
from diffusion_lab.evaluation.evaluator import Evaluator, MeasureSettings, random_subset
from diffusion_lab.evaluation.nearest import write_nearest
from diffusion_lab.evaluation.progress import Reporter
from diffusion_lab.evaluation.result import Result
from diffusion_lab.evaluation.run_data import RealSources, images_of_folder, images_of_run, open_images
from diffusion_lab.features.image_sets import is_run_path
from diffusion_lab.features.stored_images import GeneratedSource, NpzSource
from diffusion_lab.generation.verified_folder import IDENTITY


def real_images(config: EvaluateConfig) -> RealSources:
    """Open the images to compare with.

    Raises:
        ValueError, OSError: As of ``images_of_run`` and ``images_of_folder``.
    """
    evaluation = config.evaluation
    if evaluation.reference is not None:
        return images_of_folder(
            evaluation.reference,
            evaluation.held_out,
            evaluation.image_size,
            None,
            evaluation.cache_dir,
            config.generation.trusted,
        )
    checkpoint = config.generation.checkpoint
    assert isinstance(checkpoint, Path)  # the rules of the settings ask for one where there is no reference
    moved = {name: path for name, path in config.data.paths if path is not None}
    return images_of_run(
        read_checkpoint(find_checkpoint(checkpoint)), evaluation.split, config.generation.trusted, moved
    )


def evaluate_sources(
    folders: Sequence[Path], config: EvaluateConfig, settings: MeasureSettings, folder: Path, reporter: Reporter
) -> Iterator[Result]:
    """Measure each of the folders, with the same number of images of each.

    Args:
        folders: Folders of images and npz files.
        config: The settings.
        settings: How images are measured.
        folder: Where measurements and pictures are kept.
        reporter: Says what is being done.

    Raises:
        ValueError, OSError: Naming key, value and rule.
    """
    _check_trust(folders, config)
    real = real_images(config)
    sources = [_opened(path, real, config) for path in folders]
    count = _count(sources, folders, config.evaluation.num_samples)
    evaluator = Evaluator(real, settings, reporter.told)
    seed = config.compute.seed
    assert isinstance(seed, int)  # the rules of the settings ask for one
    names = _names(folders)
    for number, (path, source, name) in enumerate(zip(folders, sources, names, strict=True), 1):
        reporter.say(f"[{number}/{len(folders)}] {path}" if len(folders) > 1 else str(path))
        images = random_subset(source, count, seed)
        store_in = _beside(folder / name, folders, config)
        with reporter.bars():
            measured = evaluator.measure(images, seed, store_in=store_in)
        nearest = write_nearest(images, real.train, measured.pairs, store_in)
        yield Result(
            name=name,
            varying={"evaluation.samples": name} if len(folders) > 1 else {},
            samples={"folder": str(path), "images": len(source), "seed": seed, **_told(source)},
            conditions=evaluator.conditions(count),
            seconds=measured.seconds,
            measurement=measured.measurement,
            pictures={"nearest": str(nearest)} if nearest else {},
        )


def _check_trust(folders: Sequence[Path], config: EvaluateConfig) -> None:
    """Raise ValueError where classes are trusted, and nothing that is read could name one."""
    evaluation, checkpoint = config.evaluation, config.generation.checkpoint
    read = [path for path in (*folders, evaluation.reference, evaluation.held_out) if path is not None]
    if config.generation.trusted and checkpoint is None and not any(map(is_run_path, read)):
        raise ValueError(
            f"generation.trust = {', '.join(config.generation.trusted)} has no effect, since none of "
            "evaluation.samples, evaluation.reference and evaluation.held_out is a run or a checkpoint; leave it out"
        )


def _beside(place: Path, folders: Sequence[Path], config: EvaluateConfig) -> Path:
    """The place, or one beside it where it is that of images that are read: a picture in there would become one."""
    others = (config.evaluation.reference, config.evaluation.held_out)
    read = {path.resolve() for path in (*folders, *others) if path is not None}
    return place.with_name(f"{place.name}_evaluation") if place.resolve() in read else place


def _opened(path: Path, real: RealSources, config: EvaluateConfig) -> ImageSource:
    source = open_images(
        path,
        config.evaluation.image_size or real.reference.image_size,
        real.reference.channels,
        "evaluation.samples",
        config.evaluation.cache_dir,
        config.generation.trusted,
    )
    names = real.reference.class_names
    if isinstance(source, NpzSource) and len(source.class_names) <= len(names):
        source.class_names = names if source.class_names else ()  # an npz has numbers alone: they count real classes
    return source


def _count(sources: Sequence[ImageSource], folders: Sequence[Path], wanted: int | None) -> int:
    fewest = min(map(len, sources))
    smallest = folders[[len(source) for source in sources].index(fewest)]
    if wanted is not None and wanted > fewest:
        raise ValueError(f"evaluation.num_samples must be at most {fewest}, the images in {smallest}, got {wanted}")
    if fewest < MIN_IMAGES:
        raise ValueError(
            f"evaluation.samples must be at least {MIN_IMAGES} images, got {fewest} in {smallest}: metrics of fewer "
            "are meaningless"
        )
    return wanted or fewest


def _names(folders: Sequence[Path]) -> list[str]:
    """The last part of each path; the whole paths where two would be the same."""
    short = [path.resolve().stem if path.suffix == ".npz" else path.resolve().name for path in folders]
    return short if len(set(short)) == len(short) else ["_".join(path.resolve().parts[-3:]) for path in folders]


def _told(source: ImageSource) -> dict[str, object]:
    """What the manifest of a generated folder says of all its images."""
    whole = source.source if isinstance(source, Subset) else source
    if not isinstance(whole, GeneratedSource):
        return {}
    first, told = whole.lines[0], {}
    for name in (*IDENTITY, "checkpoint", "sampler", "steps", "guidance_scale", "use_ema", "ema_decay"):
        if all(line.get(name) == first.get(name) for line in whole.lines):
            told[name] = first.get(name)
    return {**told, "sampling_seed": first.get("seed")}
