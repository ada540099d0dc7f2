"""Plan of a resumed run: what it takes from the checkpoint, what from the settings, and what remains to be done."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diffusion_lab.config.schema import TrainConfig
from diffusion_lab.console.redaction import redacted, secret_values
from diffusion_lab.data.datamodule import ImageDataModule
from diffusion_lab.faults import shown
from diffusion_lab.training.callbacks.resume_overrides import ResumePlan
from diffusion_lab.training.create import steps_per_epoch
from diffusion_lab.training.custom_objects import changed_arguments
from diffusion_lab.training.resume_checks import Comparison
from diffusion_lab.training.resume_rules import Change, Effect
from diffusion_lab.training.resume_source import ResumePosition, ResumeSource
from diffusion_lab.typed_settings.targets import is_target


@dataclass(frozen=True)
class RemainingTraining:
    """Remaining work of a resumed run, in batches and steps of its own size.

    Args:
        batches_done: Batches of the unfinished epoch that are done, 0 at the start of an epoch.
        epochs: Epochs left, including an unfinished one.
        steps: Optimizer steps left.
        note: Message for the user if the position is counted in batches of another size than before.
    """

    batches_done: int
    epochs: int
    steps: int
    note: str | None


def make_resume_plan(comparison: Comparison, left: RemainingTraining) -> ResumePlan:
    """Return which parts of the state a resumed run takes from the settings instead of the checkpoint."""
    training = comparison.config.training
    rates = [change for change in comparison.changes if change.key == "training.optimizer.learning_rate"]
    is_ours = training.scheduler.type is not None and training.scheduler.path_of(training.scheduler.type) is None
    return ResumePlan(
        training.resume.reset_optimizer,
        training.resume.reset_scheduler,
        left.batches_done,
        optimizer_options=comparison.optimizer_options,
        rebuild_schedule=is_ours or comparison.schedule_changed,
        rate_factor=float(rates[0].now) / float(rates[0].then) if rates else 1.0,
        forget_best=bool(comparison.changed(Effect.APPLIED_TO_LOSS, Effect.EVALUATION))
        or comparison.validation_images_changed
        or comparison.images_changed
        or comparison.loss_weights_changed
        or comparison.validation_draws_changed,
        callback_arguments=changed_arguments(_saved_callbacks(comparison), training.callbacks),
    )


def _saved_callbacks(comparison: Comparison) -> Sequence[Any]:
    callbacks = (comparison.checkpoint.config or {}).get("training", {}).get("callbacks", ())
    return [entry for entry in callbacks if isinstance(entry, str) or is_target(entry)]


def resume_notes(comparison: Comparison, plan: ResumePlan, left: RemainingTraining) -> list[str]:
    """Return what to print about a resumed run: one line for each setting that differs."""
    notes = []
    for change in comparison.changes:
        same_images = change.effect == Effect.IMAGES and not comparison.images_changed
        notes.append(f"{change}; {'the images are the same' if same_images else 'the new value is used'}")
    if left.note is not None:
        notes.append(left.note)
    if comparison.images_changed:
        notes.append("training.resume.allow_other_data: the training images are not those of the checkpoint")
    elif comparison.validation_images_changed:
        notes.append("the validation images are not those of the checkpoint")
    if comparison.loss_weights_changed:
        loss = comparison.config.training.loss
        notes.append(
            f"training.loss.weighting {loss.weighting.type} with penalty {loss.penalty.type} weights noise "
            "levels differently from the version of diffusion_lab that wrote the checkpoint"
        )
    if comparison.validation_draws_changed:
        notes.append(
            "validation draws noise and times for each image, which the version of diffusion_lab that wrote the "
            "checkpoint drew for each batch"
        )
    if plan.forget_best:
        notes.append("earlier validation losses are not comparable: the best checkpoint is selected again from here on")
    return notes


def learning_rate_note(then: float, now: float, comparison: Comparison, left: RemainingTraining) -> str | None:
    """Return what to print if the learning rate jumps, else None.

    Args:
        then: Learning rate in the checkpoint.
        now: Learning rate of the next step.
        comparison: What differs from the run that wrote the checkpoint.
        left: Remaining work.
    """
    if abs(now - then) <= 1e-6 * max(then, now):
        return None
    note = f"the learning rate was {then:.3g} in the checkpoint and is {now:.3g} from here on"
    training = comparison.config.training
    changed = {"training.epochs", "training.max_steps"} & comparison.changed_keys
    extended = training.scheduler.type is not None and bool(changed)
    if not extended or training.resume.reset_scheduler or now <= then:
        return note
    return (
        f"{note}: the schedule is that of a run of {training.epochs} epochs. To stay at the old rate instead: "
        f"scheduler=none training.optimizer.learning_rate={then:.6g} training.resume.reset_scheduler=true. For a new "
        f"schedule over the {left.epochs} epochs that are left, from a peak of your choice: "
        "training.optimizer.learning_rate=PEAK training.resume.reset_scheduler=true"
    )


def remaining_training(
    source: ResumeSource, config: TrainConfig, data: ImageDataModule, changes: Sequence[Change]
) -> RemainingTraining:
    """Return the remaining work after a checkpoint.

    Raises:
        ValueError: The checkpoint is from the middle of an epoch, and its rest is undefined: no optimizer step of the
            current size starts there, or the order or the number of the images differs.
    """
    accumulated = config.training.accumulate_batches
    position = source.position
    if position is None or not position.samples_seen:
        return _remaining(0, 0, source, config, data, None)
    _refuse_another_order(source.path, position, data, changes)
    done, beyond = divmod(position.samples_seen, data.step_size * accumulated)
    batches = done * accumulated
    if beyond or batches >= data.steps_per_epoch:
        raise ValueError(
            "data.loading.batch_size × training.accumulate_batches must divide the "
            f"{position.samples_seen} images that epoch {position.epoch + 1} has seen in {source.path}, and leave some "
            f"of it, got {data.step_size} × "
            f"{accumulated} (a checkpoint from the end of an epoch resumes with any)"
        )
    return _remaining(batches, done, source, config, data, _note(position, data))


def _remaining(
    batches: int, steps: int, source: ResumeSource, config: TrainConfig, data: ImageDataModule, note: str | None
) -> RemainingTraining:
    """Return the remaining work after ``batches`` and ``steps`` of an epoch, up to the limits of the settings."""
    per_epoch = steps_per_epoch(config, data)
    left = per_epoch * (config.training.epochs - (source.epochs_done or 0)) - steps
    if config.training.max_steps is not None:
        left = min(left, max(config.training.max_steps - (source.step or 0), 0))
    return RemainingTraining(batches, math.ceil((steps + left) / per_epoch), left, note)


def _refuse_another_order(
    path: object, position: ResumePosition, data: ImageDataModule, changes: Sequence[Change]
) -> None:
    where = f"{path} is from the middle of epoch {position.epoch + 1}"
    rest = "the rest of the epoch would not be the rest (a checkpoint from the end of an epoch resumes with any)"
    for change in changes:
        if change.key == "data.loading.shuffle_train":
            raise ValueError(
                f"{change.key} must be the checkpoint's value, {shown(change.then)}, got {shown(change.now)}: "
                f"{where}, and {rest}"
            )
    if position.length not in (None, len(data.train)):
        raise ValueError(
            f"data.paths.train must hold the {position.length} images of the checkpoint, got {len(data.train)}: "
            f"{where}, and {rest}"
        )


def _note(position: ResumePosition, data: ImageDataModule) -> str | None:
    if position.step_size == data.step_size:
        return None
    return (
        f"data.loading.batch_size × devices was {position.step_size} and is {data.step_size}: "
        f"epoch {position.epoch + 1} continues with its image {position.samples_seen + 1}"
    )


def same_results(config: TrainConfig, source: ResumeSource) -> bool:
    """Return whether the steps after the checkpoint give the same results as in the run that wrote it."""
    now = config.model_dump(mode="json")
    now = redacted(now, secret_values(now, sys.argv))  # as the checkpoint has them
    evaluated = ("evaluation", "guidance") if config.evaluation.enabled else ()
    sections = ("model", "data", "training", *evaluated)
    return all(_relevant(now[name]) == _relevant(source.config.get(name)) for name in sections)


def _relevant(section: Any) -> Any:
    """Return a section without the keys that do not change the results of a step."""
    irrelevant = ("epochs", "max_steps", "max_time", "profiler", "resume", "num_workers", "pin_memory")
    if not isinstance(section, Mapping):
        return section
    return {name: _relevant(value) for name, value in section.items() if name not in irrelevant}
