"""Evaluation of existing images: folders and npz files, compared with a folder or with the data of a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from diffusion_lab.checkpoint import find_checkpoint, read_checkpoint
from diffusion_lab.cli.evaluate_schema import EvaluateConfig
from diffusion_lab.data.source import ImageSource, Subset
from diffusion_lab.evaluation.evaluator import Evaluator, MeasureSettings, random_subset
from diffusion_lab.evaluation.nearest import write_nearest
from diffusion_lab.evaluation.progress import Reporter
from diffusion_lab.evaluation.result import Result
from diffusion_lab.evaluation.run_data import RealSources, images_of_folder, images_of_run, open_images
from diffusion_lab.features.image_sets import is_run_path
from diffusion_lab.features.stored_images import GeneratedSource, NpzSource
from diffusion_lab.generation.verified_folder import IDENTITY
from diffusion_lab.metric_names import MIN_IMAGES


def real_images(config: EvaluateConfig) -> RealSources:
    """Open the images to compare with.

    Raises:
        ValueError, OSError: :func:`images_of_run` or :func:`images_of_folder` fails.
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
    assert isinstance(checkpoint, Path)  # the rules of the settings require one if there is no reference
    moved = {name: path for name, path in config.data.paths if path is not None}
    return images_of_run(
        read_checkpoint(find_checkpoint(checkpoint)), evaluation.split, config.generation.trusted, moved
    )


def evaluate_sources(
    folders: Sequence[Path], config: EvaluateConfig, settings: MeasureSettings, folder: Path, reporter: Reporter
) -> Iterator[Result]:
    """Evaluate each of the folders, with the same number of images from each.

    Args:
        folders: Folders of images and npz files.
        config: The settings of the command.
        settings: Settings of the measurement.
        folder: Folder in which measurements and images of the nearest pairs are stored.
        reporter: Prints progress.

    Raises:
        ValueError, OSError: A setting cannot be used; the message has its key, its value and the rule.
    """
    _check_trust(folders, config)
    real = real_images(config)
    sources = [_open_samples(path, real, config) for path in folders]
    count = _count(sources, folders, config.evaluation.num_samples)
    evaluator = Evaluator(real, settings, reporter.update)
    seed = config.compute.seed
    assert isinstance(seed, int)  # the rules of the settings require one
    names = _names(folders)
    for number, (path, source, name) in enumerate(zip(folders, sources, names, strict=True), 1):
        reporter.print_line(f"[{number}/{len(folders)}] {path}" if len(folders) > 1 else str(path))
        images = random_subset(source, count, seed)
        store_in = _outside_inputs(folder / name, folders, config)
        with reporter.progress_bars():
            stored = evaluator.measure(images, seed, store_in=store_in)
        nearest = write_nearest(images, real.train, stored.pairs, store_in)
        yield Result(
            name=name,
            varying={"evaluation.samples": name} if len(folders) > 1 else {},
            samples={"folder": str(path), "images": len(source), "seed": seed, **_manifest_fields(source)},
            conditions=evaluator.conditions(count),
            seconds=stored.seconds,
            measurement=stored.measurement,
            pictures={"nearest": str(nearest)} if nearest else {},
        )


def _check_trust(folders: Sequence[Path], config: EvaluateConfig) -> None:
    """Raise ValueError if classes are trusted, but no run or checkpoint is read that could name one."""
    evaluation, checkpoint = config.evaluation, config.generation.checkpoint
    inputs = [path for path in (*folders, evaluation.reference, evaluation.held_out) if path is not None]
    if config.generation.trusted and checkpoint is None and not any(map(is_run_path, inputs)):
        raise ValueError(
            f"generation.trust = {', '.join(config.generation.trusted)} has no effect, since none of "
            "evaluation.samples, evaluation.reference and evaluation.held_out is a run or a checkpoint; leave it out"
        )


def _outside_inputs(folder: Path, folders: Sequence[Path], config: EvaluateConfig) -> Path:
    """Return the folder, or a sibling if images are read from it: a file written there would become one of them."""
    others = (config.evaluation.reference, config.evaluation.held_out)
    inputs = {path.resolve() for path in (*folders, *others) if path is not None}
    return folder.with_name(f"{folder.name}_evaluation") if folder.resolve() in inputs else folder


def _open_samples(path: Path, real: RealSources, config: EvaluateConfig) -> ImageSource:
    """Open images to evaluate, with the size and the channels of the real images."""
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
        source.class_names = names if source.class_names else ()  # labels of an npz are numbers of the real classes
    return source


def _count(sources: Sequence[ImageSource], folders: Sequence[Path], num_samples: int | None) -> int:
    """Return the number of images to evaluate in each folder."""
    available = min(map(len, sources))
    smallest = folders[[len(source) for source in sources].index(available)]
    if num_samples is not None and num_samples > available:
        raise ValueError(
            f"evaluation.num_samples must be at most {available}, the images in {smallest}, got {num_samples}"
        )
    if available < MIN_IMAGES:
        raise ValueError(
            f"evaluation.samples must be at least {MIN_IMAGES} images, got {available} in {smallest}: metrics of fewer "
            "are meaningless"
        )
    return num_samples or available


def _names(folders: Sequence[Path]) -> list[str]:
    """Return the last part of each path, or the last three parts if names would be duplicates."""
    short = [path.resolve().stem if path.suffix == ".npz" else path.resolve().name for path in folders]
    return short if len(set(short)) == len(short) else ["_".join(path.resolve().parts[-3:]) for path in folders]


def _manifest_fields(source: ImageSource) -> dict[str, object]:
    """Return the manifest fields that are equal for all images of a generated folder; none for other sources."""
    generated = source.source if isinstance(source, Subset) else source
    if not isinstance(generated, GeneratedSource):
        return {}
    first, fields = generated.lines[0], {}
    for name in (*IDENTITY, "checkpoint", "sampler", "steps", "guidance_scale", "use_ema", "ema_decay"):
        if all(line.get(name) == first.get(name) for line in generated.lines):
            fields[name] = first.get(name)
    return {**fields, "sampling_seed": first.get("seed")}
