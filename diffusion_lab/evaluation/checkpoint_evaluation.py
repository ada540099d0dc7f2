"""Evaluating checkpoints: images are generated, and compared with the data of the run or with a folder."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from diffusion_lab.checkpoint import Checkpoint, read_checkpoint
from diffusion_lab.config.compose_evaluation import Point
from diffusion_lab.config.evaluate_schema import EvaluateConfig
from diffusion_lab.config.evaluation_section import DEFAULT_METRICS
from diffusion_lab.config.faults import ConfigWarning
from diffusion_lab.config.schema import GenerateConfig
from diffusion_lab.denoiser import Denoiser
from diffusion_lab.devices import resolve_device
from diffusion_lab.evaluation.evaluator import Evaluator, MeasureSettings, first_images
from diffusion_lab.evaluation.generated_samples import GeneratedSamples, sample
from diffusion_lab.evaluation.label_shares import labels_in_shares
from diffusion_lab.evaluation.nearest import write_nearest
from diffusion_lab.evaluation.progress import Reporter
from diffusion_lab.evaluation.result import Result
from diffusion_lab.evaluation.run_data import RealSources, images_of_folder, images_of_run, training_images
from diffusion_lab.evaluation.targets import Target
from diffusion_lab.features.image_sets import means_run
from diffusion_lab.features.run_images import class_of_images
from diffusion_lab.features.stored_images import GeneratedSource
from diffusion_lab.generate import compute_dtype
from diffusion_lab.precision import precision_of

CHECKPOINT = "generation.checkpoint"
MEMORIZATION = "memorization"

TOLD = (
    *("checkpoint", "checkpoint_sha256", "config_hash", "data_fingerprint", "sampler", "sampler_options", "steps"),
    *("guidance_scale", "guidance_interval", "guidance_rescale", "seed", "use_ema", "ema_decay", "precision"),
)
"""What the manifest of generated images says about all of them."""


@dataclass(frozen=True)
class Work:
    """A checkpoint and what it is compared with.

    Attributes:
        target: The checkpoint, and where its images go.
        evaluator: Measures them.
        labels: The labels of the images in turn; None for all classes in turn, or none.
        precision: What the network computes in on this device.
        most_steps: Steps of its noise process; None where that has none of its own.
        trust: Dotted paths of the classes of its model that may be imported.
    """

    target: Target
    evaluator: Evaluator
    labels: tuple[int, ...] | None
    precision: str | int
    most_steps: int | None
    trust: tuple[str, ...]


def prepare(
    targets: Sequence[Target],
    points: Sequence[Point],
    config: EvaluateConfig,
    settings: MeasureSettings,
    reporter: Reporter,
) -> list[Work]:
    """Read what the images of each checkpoint are compared with; those with the same data share it.

    Raises:
        ValueError: A checkpoint cannot be sampled as a point asks for; and as of ``images_of_run``.
    """
    evaluators: dict[object, Evaluator] = {}
    named: set[str | None] = set()
    prepared = []
    for target in targets:
        checkpoint = read_checkpoint(target.checkpoint)
        named |= {*checkpoint.named_classes, class_of_images(checkpoint)}
        configs = [point.config for point in points if means(point, target)]
        denoiser = _sampled_as_asked(checkpoint, configs)
        _refuse_agreement_without_labels(denoiser, settings, checkpoint.path)
        key = _data_of(checkpoint, denoiser, config)
        if key not in evaluators:
            with reporter.bars():
                evaluators[key] = Evaluator(_real_images(checkpoint, denoiser, config), settings, reporter.told)
                evaluators[key].read_real_images()
        evaluator = evaluators[key]
        classes, names = denoiser.num_classes, evaluator.real.reference.class_names
        fits = classes is not None and (config.evaluation.reference is None or names == denoiser.class_names)
        labels = labels_in_shares(evaluator.real.reference, classes) if fits and classes is not None else None
        trust = tuple(path for path in config.generation.trusted if path in checkpoint.named_classes)
        precision, most_steps = _precision(checkpoint, configs[0]), denoiser.schedule.most_steps
        prepared.append(Work(target, evaluator, labels, precision, most_steps, trust))
    _check_trust(config, named)
    return prepared


def evaluate_points(points: Sequence[Point], works: Sequence[Work], reporter: Reporter) -> Iterator[Result]:
    """Generate and measure the images of each point with each of the checkpoints that it means."""
    pairs = [(point, work) for point in points for work in works if means(point, work.target)]
    for number, (point, work) in enumerate(pairs, 1):
        settings = ", ".join(f"{key.rpartition('.')[2]} {_short(value)}" for key, value in _varying(point).items())
        count = f"[{number}/{len(pairs)}] " if len(pairs) > 1 else ""
        reporter.say(f"{count}{work.target.name}{': ' if settings else ''}{settings}")
        yield _evaluate(point, work, several=len(works) > 1, reporter=reporter)


def means(point: Point, target: Target) -> bool:
    """Whether a point is for a checkpoint."""
    return point.config.generation.checkpoint == target.given


def _sampled_as_asked(checkpoint: Checkpoint, configs: Sequence[GenerateConfig]) -> Denoiser:
    """The model of the first point. Raises ValueError for any point now, and not when those before it are sampled."""
    for config in configs:
        checkpoint.select_decay(config.generation.sampling.use_ema, config.generation.sampling.ema_decay)
    first = configs[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is said when it is sampled
        sampling = first.generation.sampling
        denoiser = checkpoint.denoiser(sampling.use_ema, first.model, sampling.ema_decay, first.generation.trusted)
    for config in configs:
        _refuse_guidance_without_labels(denoiser, config, checkpoint.path)
        config.sampler.for_process(denoiser.schedule.most_steps).build().levels(denoiser.schedule)
    return denoiser


def _refuse_guidance_without_labels(denoiser: Denoiser, config: GenerateConfig, path: Path) -> None:
    for scale in config.generation.sampling.scales:
        if denoiser.num_classes is None and scale not in (0, 1):
            raise ValueError(
                f"generation.sampling.guidance_scale must be 1 for {path}, got {scale:g}: guidance has no effect on "
                "its model, which is unconditional; leave guidance_scale out"
            )


def _refuse_agreement_without_labels(denoiser: Denoiser, settings: MeasureSettings, path: Path) -> None:
    """Refuse a metric that was asked for before anything is sampled; among the default metrics it is left out."""
    if denoiser.num_classes is None and "label_agreement" in settings.metrics and settings.metrics != DEFAULT_METRICS:
        raise ValueError(
            f"evaluation.metrics holds label_agreement, which does not apply to {path}: its model is unconditional; "
            "leave it out"
        )


def _check_trust(config: EvaluateConfig, named: Collection[str | None]) -> None:
    """Refuse to trust a class that no checkpoint names; what another run names, to be compared with, is not known."""
    needless = [path for path in config.generation.trusted if path not in named]
    others = [path for path in (config.evaluation.reference, config.evaluation.held_out) if path is not None]
    if needless and not any(map(means_run, others)):
        raise ValueError(
            f"generation.trust must hold only classes that generation.checkpoint names, got {', '.join(needless)}: "
            "leave it out"
        )


def _evaluate(point: Point, work: Work, several: bool, reporter: Reporter) -> Result:
    config = _for_checkpoint(point.config, work)
    if config.sampler is not point.config.sampler:
        reporter.say(f"sampler.steps is {work.most_steps}: the noise process of {work.target.name} has no more.")
    sampled = sample(config, work.target, reporter.shows)
    count = config.generation.sampling.num_samples
    generated = GeneratedSource(sampled.folder)
    images = first_images(generated, count)
    with reporter.bars():
        measured = work.evaluator.measure(images, config.compute.seed or 0, store_in=sampled.folder)
    nearest = write_nearest(images, work.evaluator.real.train, measured.pairs, sampled.folder)
    seconds = {"sampling": _seconds(sampled, count), **measured.seconds}
    varying = {CHECKPOINT: work.target.name, **_varying(point)} if several else _varying(point)
    return Result(
        name=work.target.name,
        varying=varying,
        samples=_samples(generated.lines[0], sampled, work, config.generation.sampling.use_ema),
        conditions=work.evaluator.conditions(count),
        seconds=seconds,
        measurement=measured.measurement,
        pictures={"nearest": str(nearest)} if nearest else {},
    )


def _data_of(checkpoint: Checkpoint, denoiser: Denoiser, config: EvaluateConfig) -> object:
    """What is equal for checkpoints that are compared with the same images."""
    if config.evaluation.reference is not None and MEMORIZATION not in config.evaluation.metrics:
        return denoiser.image_shape
    known = [checkpoint.about.get(name) for name in ("data_fingerprint", "validation_fingerprint")]
    return (denoiser.image_shape, *known, checkpoint.class_names) if known[0] is not None else checkpoint.path


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
        min(channels, 3),  # features take no alpha channel
        evaluation.cache_dir,
        config.generation.trusted,
    )
    if MEMORIZATION not in evaluation.metrics:
        return real
    try:
        return replace(real, trained_on=training_images(checkpoint, config.generation.trusted, moved))
    except (ValueError, OSError) as error:
        why = f"the images that {checkpoint.path} was trained on cannot be read: {error}"
        if evaluation.metrics != DEFAULT_METRICS:
            raise ValueError(f"evaluation.metrics holds {MEMORIZATION}, and {why}; leave it out") from error
        warnings.warn(f"{MEMORIZATION} is left out: {why}", ConfigWarning, stacklevel=2)
        return replace(real, unknown="the training images of the run cannot be read")


def _for_checkpoint(config: GenerateConfig, work: Work) -> GenerateConfig:
    """The settings of a point with what is known of its checkpoint."""
    known = {"labels": work.labels, "precision": work.precision}
    sampling = config.generation.sampling.model_copy(update=known)
    generation = config.generation.model_copy(update={"sampling": sampling, "trust": work.trust})
    return config.model_copy(update={"generation": generation, "sampler": config.sampler.for_process(work.most_steps)})


def _precision(checkpoint: Checkpoint, config: GenerateConfig) -> str | int:
    """What is computed in here, which may depend on the device: images of another precision are other images."""
    device = resolve_device(config.compute.device)
    return precision_of(compute_dtype(checkpoint, config.generation.sampling, device))


def _varying(point: Point) -> dict[str, Any]:
    return {key: value for key, value in point.values.items() if key != CHECKPOINT}


def _samples(line: Mapping[str, Any], sampled: GeneratedSamples, work: Work, asked_for_ema: bool) -> dict[str, Any]:
    told = {name: line.get(name) for name in TOLD}
    labels = None if line.get("label") is None else ("in turn" if work.labels is None else "as real images")
    missing = asked_for_ema and not told["use_ema"]
    return {**told, "ema_missing": missing, "labels": labels, "folder": str(sampled.folder)}


def _seconds(sampled: GeneratedSamples, count: int) -> float | None:
    """The time of sampling as many images, of those that were made in a known time."""
    return None if sampled.seconds is None else round(sampled.seconds * count / sampled.count, 3)


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
