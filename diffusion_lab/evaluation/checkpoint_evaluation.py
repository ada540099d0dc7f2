"""Evaluation of checkpoints: images are generated, and compared with the data of the run or with a folder."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from diffusion_lab.checkpoint import Checkpoint, read_checkpoint
from diffusion_lab.cli.compose_evaluation import Point
from diffusion_lab.cli.evaluate_schema import EvaluateConfig
from diffusion_lab.config.schema import GenerateConfig
from diffusion_lab.denoiser import Denoiser
from diffusion_lab.evaluation.evaluator import Evaluator, MeasureSettings, first_images
from diffusion_lab.evaluation.generated_samples import GeneratedSamples, sample
from diffusion_lab.evaluation.nearest import write_nearest
from diffusion_lab.evaluation.progress import Reporter
from diffusion_lab.evaluation.proportional_labels import proportional_labels
from diffusion_lab.evaluation.result import Result
from diffusion_lab.evaluation.run_data import RealSources, images_of_folder, images_of_run, training_images
from diffusion_lab.evaluation.targets import Target
from diffusion_lab.faults import ConfigWarning
from diffusion_lab.features.image_sets import is_run_path
from diffusion_lab.features.run_images import data_class_path
from diffusion_lab.features.stored_images import GeneratedSource
from diffusion_lab.generation.generate import compute_dtype
from diffusion_lab.metric_names import DEFAULT_METRICS
from diffusion_lab.runtime.devices import resolve_device
from diffusion_lab.runtime.precision import precision_of

CHECKPOINT = "generation.checkpoint"
MEMORIZATION = "memorization"

MANIFEST_FIELDS = (
    *("checkpoint", "checkpoint_sha256", "config_hash", "data_fingerprint", "sampler", "sampler_options", "steps"),
    *("guidance_scale", "guidance_interval", "guidance_rescale", "seed", "use_ema", "ema_decay", "precision"),
)
"""Fields of the manifest of generated images that are equal for all of them, and are copied to the results."""


@dataclass(frozen=True)
class PreparedCheckpoint:
    """Checkpoint with the images that it is compared with.

    Attributes:
        target: The checkpoint, and the folder of its images.
        evaluator: Evaluator of its images.
        labels: Labels of the images, repeated as needed; None for all classes in turn, or an unconditional model.
        precision: Precision of the network on this device.
        max_steps: Number of steps of a discrete noise process; None for a continuous one.
        trust: Dotted paths of the classes of its model that may be imported.
    """

    target: Target
    evaluator: Evaluator
    labels: tuple[int, ...] | None
    precision: str | int
    max_steps: int | None
    trust: tuple[str, ...]


def prepare_checkpoints(
    targets: Sequence[Target],
    points: Sequence[Point],
    config: EvaluateConfig,
    settings: MeasureSettings,
    reporter: Reporter,
) -> list[PreparedCheckpoint]:
    """Read the images that each checkpoint is compared with; checkpoints with the same data share an evaluator.

    Raises:
        ValueError: A checkpoint cannot be sampled with the settings of a point, or :func:`images_of_run` fails.
    """
    evaluators: dict[object, Evaluator] = {}
    named: set[str | None] = set()
    prepared = []
    for target in targets:
        checkpoint = read_checkpoint(target.checkpoint)
        named |= {*checkpoint.named_classes, data_class_path(checkpoint)}
        configs = [point.config for point in points if applies_to(point, target)]
        denoiser = _load_and_check(checkpoint, configs)
        _check_label_agreement(denoiser, settings, checkpoint.path)
        key = _data_key(checkpoint, denoiser, config)
        if key not in evaluators:
            with reporter.progress_bars():
                evaluators[key] = Evaluator(_real_images(checkpoint, denoiser, config), settings, reporter.update)
                evaluators[key].read_real_images()
        evaluator = evaluators[key]
        classes, names = denoiser.num_classes, evaluator.real.reference.class_names
        same_classes = config.evaluation.reference is None or names == denoiser.class_names
        reference = evaluator.real.reference
        labels = proportional_labels(reference, classes) if classes is not None and same_classes else None
        trust = tuple(path for path in config.generation.trusted if path in checkpoint.named_classes)
        precision, max_steps = _precision(checkpoint, configs[0]), denoiser.schedule.most_steps
        prepared.append(PreparedCheckpoint(target, evaluator, labels, precision, max_steps, trust))
    _check_trust(config, named)
    return prepared


def evaluate_points(
    points: Sequence[Point], checkpoints: Sequence[PreparedCheckpoint], reporter: Reporter
) -> Iterator[Result]:
    """Generate and evaluate the images of each point with each checkpoint that it applies to."""
    pairs = [(point, prepared) for point in points for prepared in checkpoints if applies_to(point, prepared.target)]
    for number, (point, prepared) in enumerate(pairs, 1):
        settings = ", ".join(f"{key.rpartition('.')[2]} {_short(value)}" for key, value in _varying(point).items())
        count = f"[{number}/{len(pairs)}] " if len(pairs) > 1 else ""
        reporter.print_line(f"{count}{prepared.target.name}{': ' if settings else ''}{settings}")
        yield _evaluate(point, prepared, several=len(checkpoints) > 1, reporter=reporter)


def applies_to(point: Point, target: Target) -> bool:
    """Return whether a point selects a checkpoint."""
    return point.config.generation.checkpoint == target.path


def _load_and_check(checkpoint: Checkpoint, configs: Sequence[GenerateConfig]) -> Denoiser:
    """Return the model of the first point. Raises ValueError if any point is invalid, before any is sampled."""
    for config in configs:
        checkpoint.select_decay(config.generation.sampling.use_ema, config.generation.sampling.ema_decay)
    first = configs[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings are shown when it is sampled
        sampling = first.generation.sampling
        denoiser = checkpoint.denoiser(sampling.use_ema, first.model, sampling.ema_decay, first.generation.trusted)
    for config in configs:
        _check_guidance(denoiser, config, checkpoint.path)
        config.sampler.for_process(denoiser.schedule.most_steps).build().levels(denoiser.schedule)
    return denoiser


def _check_guidance(denoiser: Denoiser, config: GenerateConfig, path: Path) -> None:
    """Raise ValueError for guidance of an unconditional model."""
    for scale in config.generation.sampling.scales:
        if denoiser.num_classes is None and scale not in (0, 1):
            raise ValueError(
                f"generation.sampling.guidance_scale must be 1 for {path}, got {scale:g}: guidance has no effect on "
                "its model, which is unconditional; leave guidance_scale out"
            )


def _check_label_agreement(denoiser: Denoiser, settings: MeasureSettings, path: Path) -> None:
    """Raise ValueError for label agreement of an unconditional model; among the default metrics it is skipped."""
    if denoiser.num_classes is None and "label_agreement" in settings.metrics and settings.metrics != DEFAULT_METRICS:
        raise ValueError(
            f"evaluation.metrics contains label_agreement, which does not apply to {path}: its model is unconditional; "
            "leave it out"
        )


def _check_trust(config: EvaluateConfig, named: Collection[str | None]) -> None:
    """Raise ValueError for a trusted class that no checkpoint names, unless a run to compare with may name it."""
    unused = [path for path in config.generation.trusted if path not in named]
    others = [path for path in (config.evaluation.reference, config.evaluation.held_out) if path is not None]
    if unused and not any(map(is_run_path, others)):
        raise ValueError(
            f"generation.trust must contain only classes that generation.checkpoint names, got {', '.join(unused)}: "
            "leave it out"
        )


def _evaluate(point: Point, prepared: PreparedCheckpoint, several: bool, reporter: Reporter) -> Result:
    target, evaluator = prepared.target, prepared.evaluator
    config = _for_checkpoint(point.config, prepared)
    if config.sampler is not point.config.sampler:
        reporter.print_line(f"sampler.steps is {prepared.max_steps}: the noise process of {target.name} has no more.")
    samples = sample(config, target, reporter.enabled)
    count = config.generation.sampling.num_samples
    generated = GeneratedSource(samples.folder)
    images = first_images(generated, count)
    with reporter.progress_bars():
        stored = evaluator.measure(images, config.compute.seed or 0, store_in=samples.folder)
    nearest = write_nearest(images, evaluator.real.train, stored.pairs, samples.folder)
    seconds = {"sampling": _seconds(samples, count), **stored.seconds}
    varying = {CHECKPOINT: target.name, **_varying(point)} if several else _varying(point)
    return Result(
        name=target.name,
        varying=varying,
        samples=_samples(generated.lines[0], samples, prepared, config.generation.sampling.use_ema),
        conditions=evaluator.conditions(count),
        seconds=seconds,
        measurement=stored.measurement,
        pictures={"nearest": str(nearest)} if nearest else {},
    )


def _data_key(checkpoint: Checkpoint, denoiser: Denoiser, config: EvaluateConfig) -> object:
    """Return a key that is equal for checkpoints that are compared with the same images."""
    if config.evaluation.reference is not None and MEMORIZATION not in config.evaluation.metrics:
        return denoiser.image_shape
    fingerprints = [checkpoint.metadata.get(name) for name in ("data_fingerprint", "validation_fingerprint")]
    if fingerprints[0] is None:
        return checkpoint.path
    return (denoiser.image_shape, *fingerprints, checkpoint.class_names)


def _real_images(checkpoint: Checkpoint, denoiser: Denoiser, config: EvaluateConfig) -> RealSources:
    evaluation = config.evaluation
    moved = {name: path for name, path in config.data.paths if path is not None}
    if evaluation.reference is None:
        return images_of_run(checkpoint, evaluation.split, config.generation.trusted, moved)
    channels, size, _ = denoiser.image_shape
    real = images_of_folder(
        evaluation.reference,
        evaluation.held_out,
        evaluation.image_size or size,
        min(channels, 3),  # feature extractors take no alpha channel
        evaluation.cache_dir,
        config.generation.trusted,
    )
    if MEMORIZATION not in evaluation.metrics:
        return real
    try:
        return replace(real, trained_on=training_images(checkpoint, config.generation.trusted, moved))
    except (ValueError, OSError) as error:
        reason = f"the images that {checkpoint.path} was trained on cannot be read: {error}"
        if evaluation.metrics != DEFAULT_METRICS:
            raise ValueError(f"evaluation.metrics contains {MEMORIZATION}, but {reason}; leave it out") from error
        warnings.warn(f"{MEMORIZATION} is skipped: {reason}", ConfigWarning, stacklevel=2)
        return replace(real, unknown="the training images of the run cannot be read")


def _for_checkpoint(config: GenerateConfig, prepared: PreparedCheckpoint) -> GenerateConfig:
    """Return the settings of a point completed with those that depend on its checkpoint."""
    update = {"labels": prepared.labels, "precision": prepared.precision}
    sampling = config.generation.sampling.model_copy(update=update)
    generation = config.generation.model_copy(update={"sampling": sampling, "trust": prepared.trust})
    sampler = config.sampler.for_process(prepared.max_steps)
    return config.model_copy(update={"generation": generation, "sampler": sampler})


def _precision(checkpoint: Checkpoint, config: GenerateConfig) -> str | int:
    """Return the precision of the network, which may depend on the device and affects the images."""
    device = resolve_device(config.compute.device)
    return precision_of(compute_dtype(checkpoint, config.generation.sampling, device))


def _varying(point: Point) -> dict[str, Any]:
    return {key: value for key, value in point.values.items() if key != CHECKPOINT}


def _samples(
    line: Mapping[str, Any], samples: GeneratedSamples, prepared: PreparedCheckpoint, use_ema: bool
) -> dict[str, Any]:
    """Return the description of generated images for ``Result.samples``, from a line of their manifest."""
    fields = {name: line.get(name) for name in MANIFEST_FIELDS}
    labels = None if line.get("label") is None else ("in turn" if prepared.labels is None else "as real images")
    ema_missing = use_ema and not fields["use_ema"]
    return {**fields, "ema_missing": ema_missing, "labels": labels, "folder": str(samples.folder)}


def _seconds(samples: GeneratedSamples, count: int) -> float | None:
    """Return the time of sampling ``count`` images, proportional to that of all images; None if it is unknown."""
    return None if samples.seconds is None else round(samples.seconds * count / samples.count, 3)


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
