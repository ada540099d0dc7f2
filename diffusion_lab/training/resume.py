"""What a resumed run takes from the checkpoint and what from the settings, and what is left to do."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diffusion_lab.config.faults import shown
from diffusion_lab.config.schema import TrainConfig
from diffusion_lab.data.datamodule import ImageDataModule
from diffusion_lab.redaction import redacted, secret_values
from diffusion_lab.training.callbacks.resumption import ResumePlan
from diffusion_lab.training.lr_schedules import LR_SCHEDULES
from diffusion_lab.training.origin import Origin, Place
from diffusion_lab.training.resume_checks import Comparison
from diffusion_lab.training.resume_rules import Change, Effect


@dataclass(frozen=True)
class Remainder:
    """What is left to do of a resumed run, in batches and steps of its own size.

    Args:
        batches_done: Batches of the unfinished epoch that are done, 0 at the beginning of one.
        epochs: Epochs left, an unfinished one among them.
        steps: Optimizer steps left.
        note: What the user should know about the place, where it is measured otherwise than before.
    """

    batches_done: int
    epochs: int
    steps: int
    note: str | None


def plan_of(found: Comparison, left: Remainder) -> ResumePlan:
    """What the resumed run takes from the settings instead of the checkpoint."""
    training = found.config.training
    rates = [change for change in found.changes if change.key == "training.optimizer.learning_rate"]
    type_ = training.scheduler.type
    return ResumePlan(
        training.resume.reset_optimizer,
        training.resume.reset_scheduler,
        left.batches_done,
        optimizer_options=found.optimizer_options,
        rebuild_schedule=type_ in LR_SCHEDULES or found.schedule_changed,
        rate_factor=float(rates[0].now) / float(rates[0].then) if rates else 1.0,
        forget_best=bool(found.changed(Effect.APPLIED_TO_LOSS, Effect.EVALUATION))
        or found.other_validation
        or found.other_images
        or found.other_weights
        or found.other_draws,
    )


def notes_of(found: Comparison, plan: ResumePlan, left: Remainder) -> list[str]:
    """What the user is told of a resumed run: a line for each setting that differs."""
    notes = []
    for change in found.changes:
        same_images = change.effect == Effect.IMAGES and not found.other_images
        notes.append(f"{change}; {'the images are the same' if same_images else 'the new value is used'}")
    if left.note is not None:
        notes.append(left.note)
    if found.other_images:
        notes.append("training.resume.allow_other_data: the training images are not those of the checkpoint")
    elif found.other_validation:
        notes.append("the validation images are not those of the checkpoint")
    if found.other_weights:
        loss = found.config.training.loss
        notes.append(
            f"training.loss.weighting {loss.weighting.type} with penalty {loss.penalty.type} weighs noise "
            "levels otherwise than the version of diffusion_lab that wrote the checkpoint"
        )
    if found.other_draws:
        notes.append(
            "validation draws noise and times for each image, which the version of diffusion_lab that wrote the "
            "checkpoint drew for each batch"
        )
    if plan.forget_best:
        notes.append("earlier validation losses are not comparable: the best checkpoint is chosen anew from here on")
    return notes


def rate_note(then: float, now: float, found: Comparison, left: Remainder) -> str | None:
    """What the user is told where the learning rate jumps.

    Args:
        then: The rate in the checkpoint.
        now: The rate of the next step.
        found: What differs from the run that wrote the checkpoint.
        left: What is left to do.
    """
    if abs(now - then) <= 1e-6 * max(then, now):
        return None
    note = f"the learning rate was {then:.3g} in the checkpoint and is {now:.3g} from here on"
    training = found.config.training
    extended = training.scheduler.type is not None and "training.epochs" in found.changed_keys
    if not extended or training.resume.reset_scheduler or now <= then:
        return note
    return (
        f"{note}: the schedule is that of a run of {training.epochs} epochs. To stay at the old rate instead: "
        f"scheduler=none training.optimizer.learning_rate={then:.6g} training.resume.reset_scheduler=true. For a new "
        f"schedule over the {left.epochs} epochs that are left, from a peak of your choice: "
        "training.optimizer.learning_rate=PEAK training.resume.reset_scheduler=true"
    )


def remainder(origin: Origin, config: TrainConfig, data: ImageDataModule, changes: Sequence[Change]) -> Remainder:
    """What is left to do from a checkpoint on.

    Raises:
        ValueError: The checkpoint is from the middle of an epoch, and what is left of it cannot be told: no optimizer
            step of the present size begins there, or the order or the number of the images is another.
    """
    accumulated = config.training.accumulate_batches
    steps_per_epoch = -(-data.steps_per_epoch // accumulated)
    epochs = config.training.epochs - (origin.epochs_done or 0)
    place = origin.place
    if place is None or not place.samples_seen:
        return Remainder(0, epochs, steps_per_epoch * epochs, None)
    _refuse_another_order(origin.path, place, data, changes)
    done, beyond = divmod(place.samples_seen, data.step_size * accumulated)
    batches = done * accumulated
    if beyond or batches >= data.steps_per_epoch:
        raise ValueError(
            f"data.loading.batch_size × training.accumulate_batches must divide the {place.samples_seen} images that "
            f"epoch {place.epoch + 1} has seen in {origin.path}, and leave some of it, got {data.step_size} × "
            f"{accumulated} (a checkpoint from the end of an epoch resumes with any)"
        )
    return Remainder(batches, epochs, steps_per_epoch * epochs - done, _note(place, data))


def _refuse_another_order(path: object, place: Place, data: ImageDataModule, changes: Sequence[Change]) -> None:
    where = f"{path} is from the middle of epoch {place.epoch + 1}"
    rest = "the rest of the epoch would not be the rest (a checkpoint from the end of an epoch resumes with any)"
    for change in changes:
        if change.key == "data.loading.shuffle_train":
            raise ValueError(
                f"{change.key} must be that of the checkpoint, {shown(change.then)}, got {shown(change.now)}: "
                f"{where}, and {rest}"
            )
    if place.length not in (None, len(data.train)):
        raise ValueError(
            f"data.paths.train must hold the {place.length} images of the checkpoint, got {len(data.train)}: "
            f"{where}, and {rest}"
        )


def _note(place: Place, data: ImageDataModule) -> str | None:
    if place.step_size == data.step_size:
        return None
    return (
        f"data.loading.batch_size × devices was {place.step_size} and is {data.step_size}: "
        f"epoch {place.epoch + 1} goes on with its image {place.samples_seen + 1}"
    )


def same_results(config: TrainConfig, origin: Origin) -> bool:
    """Whether the steps after the checkpoint come out as they did in the run that wrote it."""
    now = config.model_dump(mode="json")
    now = redacted(now, secret_values(now, sys.argv))  # as the checkpoint has them
    evaluated = ("evaluation", "guidance") if config.evaluation.enabled else ()
    sections = ("model", "data", "training", *evaluated)
    return all(_relevant(now[name]) == _relevant(origin.config.get(name)) for name in sections)


def _relevant(section: Any) -> Any:
    """A section without what decides only how long a run is, and where it goes on from."""
    unread = ("epochs", "resume", "num_workers", "pin_memory")
    if not isinstance(section, Mapping):
        return section
    return {name: _relevant(value) for name, value in section.items() if name not in unread}
