"""The settings and images of a run beside those of the checkpoint it resumes from; what does not fit is refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from diffusion_lab.checkpoint import Checkpoint, load_weights
from diffusion_lab.config.auto_image_size import CHANNELS, SIZE
from diffusion_lab.config.schema import TrainConfig
from diffusion_lab.console.terminal import printable
from diffusion_lab.data.datamodule import ImageDataModule
from diffusion_lab.denoiser import Denoiser
from diffusion_lab.diffusion.draws import VALIDATION_DRAWS
from diffusion_lab.faults import shown
from diffusion_lab.runs.identity import data_fingerprint, validation_fingerprint
from diffusion_lab.training.lr_schedules import LR_SCHEDULES, follows_from_the_place, schedule_class
from diffusion_lab.training.optimizers import create_optimizer
from diffusion_lab.training.resume_rules import Change, Effect, changes_since

GROUP_NAMES = {"learning_rate": ("lr", "initial_lr")}
"""What the parameter groups of an optimizer call its options, where it is not the name of the key."""

NOT_IN_GROUPS = ("type", "gradient_clip_norm")
"""Keys of ``training.optimizer`` that are not options of its class."""

LENGTH_KEYS = (
    "training.epochs",
    "training.accumulate_batches",
    "data.loading.batch_size",
    "data.loading.drop_last",
)
"""Keys that the number of optimizer steps depends on."""

ADVICE = {
    "compute.seed": " (leave it out or set it to null, or train anew with the other seed)",
    "training.ema.enabled": " (or train anew)",
    "training.ema.further_decays": " (or train anew: an average begins with its run)",
}
"""What to do about a refused value."""


@dataclass(frozen=True)
class Comparison:
    """The present settings and images beside those of a checkpoint."""

    config: TrainConfig
    checkpoint: Checkpoint
    changes: Sequence[Change]
    other_images: bool
    other_validation: bool

    def changed(self, *effects: Effect) -> list[Change]:
        """The changes of these effects."""
        return [change for change in self.changes if change.effect in effects]

    @property
    def changed_keys(self) -> set[str]:
        return {change.key for change in self.changes}

    @property
    def optimizer_options(self) -> tuple[str, ...]:
        """The options of the optimizer's class that changed, by the names in its parameter groups."""
        keys = [key.rpartition(".")[2] for key in self.changed_keys if key.startswith("training.optimizer.")]
        options = [GROUP_NAMES.get(key, (key,)) for key in sorted(keys) if key not in NOT_IN_GROUPS]
        return tuple(name for names in options for name in names)

    @property
    def schedule_changed(self) -> bool:
        """Whether the learning-rate schedule, as built from the settings, is another one."""
        return (
            any(key.startswith("training.scheduler.") for key in self.changed_keys)
            or bool(self.changed_keys & {"training.optimizer.learning_rate", *LENGTH_KEYS})
            or self.other_images
        )

    @property
    def other_weights(self) -> bool:
        """Whether the loss weighs noise levels otherwise than the version that wrote the checkpoint did.

        Until format 2 sigmoid was not per unit of log-SNR, and weights of l1 and huber were those of the square.
        """
        weighting, penalty = self.config.training.loss.weighting.type, self.config.training.loss.penalty.type
        other_power = penalty in ("l1", "huber") and weighting in ("min_snr", "p2", "edm")
        return self.checkpoint.about.get("format") == 1 and (weighting == "sigmoid" or other_power)

    @property
    def other_draws(self) -> bool:
        """Whether the metric is a validation loss, and the version that wrote the checkpoint took it on other noise.

        Earlier versions drew noise and times for each batch instead of each image.
        """
        is_drawn = self.config.training.validation.logged_metric.startswith("val/loss")
        return is_drawn and self.checkpoint.about.get("validation_draws") != VALIDATION_DRAWS


def compare(checkpoint: Checkpoint, config: TrainConfig, data: ImageDataModule) -> Comparison:
    """Find what differs from the run that wrote a checkpoint.

    Args:
        checkpoint: What the run resumes from.
        config: The present settings.
        data: The present images.
    """
    about, images = checkpoint.about, data_fingerprint(data.train)
    return Comparison(
        config,
        checkpoint,
        _changes(checkpoint, config),
        other_images=about.get("data_fingerprint") not in (None, images),
        other_validation="validation_fingerprint" in about
        and about["validation_fingerprint"] != validation_fingerprint(data.train, data.val, images),
    )


def _changes(checkpoint: Checkpoint, config: TrainConfig) -> list[Change]:
    """Return the settings that differ; none if the checkpoint does not record its settings."""
    if checkpoint.model is None:
        return []
    then = dict(checkpoint.config or {}) | {"model": checkpoint.model.model_dump(mode="json")}
    return changes_since(then, config)


def check_image_shape(checkpoint: Checkpoint, config: TrainConfig) -> None:
    """Check, before images are decoded, that image size and channels of the model are those of the checkpoint.

    Raises:
        ValueError: Size or channels differ; with what to type.
    """
    faults = []
    for change in _changes(checkpoint, config):
        if change.key in (SIZE, CHANNELS):
            number = f"type the checkpoint's number, {change.key}={shown(change.then)}"
            advice = f" (auto measures the present folder: {number})" if config.data.type == "image_folder" else ""
            faults.append(_must_be_that_of_the_checkpoint(change) + advice)
    _refuse(checkpoint, faults)


def check_compatible(found: Comparison, denoiser: Denoiser) -> None:
    """Check that training can resume.

    Raises:
        ValueError: The checkpoint holds weights of another architecture, or a setting differs that cannot be applied;
            each is named, with what to do.
    """
    checkpoint = found.checkpoint
    faults = [
        _must_be_that_of_the_checkpoint(change) + ADVICE.get(change.key, "") for change in found.changed(Effect.REFUSED)
    ]
    try:
        _refuse_other_classes(found)
        checkpoint.check_input_scaling(denoiser)
        load_weights(denoiser, checkpoint.weights, checkpoint.path)  # refuses those of another architecture
    except ValueError as error:
        faults.append(str(error))
    if checkpoint.foreign is not None and checkpoint.foreign.saved_in_training:
        pass  # what else it holds is taken over where it fits
    elif checkpoint.config is None or checkpoint.model is None or checkpoint.epochs_done is None:
        faults.append(
            "training.resume.checkpoint must be a file written by train.py, or a dict with model_state_dict, "
            f"not weights alone{_as_such_a_dict(checkpoint)}"
        )
    else:
        faults += _without_state(found, checkpoint.config)
        faults += _needing_reset(found)
        faults += _other_images(found)
    _refuse(checkpoint, faults)


def _refuse(checkpoint: Checkpoint, faults: Sequence[str]) -> None:
    if faults:
        raise ValueError(printable(f"cannot resume from {checkpoint.path}:\n  " + "\n  ".join(faults)))


def _must_be_that_of_the_checkpoint(change: Change) -> str:
    return f"{change.key} must be that of the checkpoint, {shown(change.then)}, got {shown(change.now)}"


def _as_such_a_dict(checkpoint: Checkpoint) -> str:
    """How weights alone are saved as a dict that can be resumed from, in words that go on from what is refused."""
    if checkpoint.foreign is None:
        return ""
    path = checkpoint.path
    dictionary = path.with_name(f"{path.stem}_dict{path.suffix}")
    return (
        f". To train them further from epoch 1, save them as one, in Python: old = torch.load({str(path)!r}); "
        f'torch.save({{"model_state_dict": old.get("state_dict", old)}}, {str(dictionary)!r})'
    )


def _refuse_other_classes(found: Comparison) -> None:
    """Raise ValueError where the file of another program is of other classes than the settings."""
    model = found.config.model
    classes = found.checkpoint.with_file_classes(model).conditioning.classes
    if classes != model.conditioning.classes:
        raise ValueError(
            f"model.conditioning.type must be class (conditioning=class): {found.checkpoint.path} is of a model of "
            f"{classes} classes, got null"
        )


def _without_state(found: Comparison, then: Mapping[str, Any]) -> Iterator[str]:
    resume = found.config.training.resume
    saved = then["training"]["checkpointing"]["save_optimizer"]
    if not saved and not (resume.reset_optimizer and resume.reset_scheduler):
        yield (
            "training.resume.checkpoint holds no optimizer state (training.checkpointing.save_optimizer=false): "
            "set training.resume.reset_optimizer=true and training.resume.reset_scheduler=true"
        )


def _needing_reset(found: Comparison) -> Iterator[str]:
    resume = found.config.training.resume
    if not resume.reset_optimizer:
        groups = _group_names(found)
        for change in found.changes:
            if change.effect == Effect.RESET_OPTIMIZER or _has_unseen_effect(change, groups):
                yield _must_be_reset(change, "optimizer", "the optimizer's running averages")
    if not resume.reset_scheduler:
        keeps = _keeps_what_it_was_built_for(found)
        for change in found.changes:
            of_the_schedule = change.key.startswith("training.scheduler.")
            shaping = of_the_schedule or change.key in ("training.optimizer.learning_rate", *LENGTH_KEYS)
            if change.effect == Effect.RESET_SCHEDULER or (keeps and shaping):
                yield _must_be_reset(change, "scheduler", "the learning-rate schedule, for the epochs that are left")


def _must_be_reset(change: Change, part: str, what: str) -> str:
    instead = f"(or set training.resume.reset_{part}=true, which begins {what} anew)"
    return f"{_must_be_that_of_the_checkpoint(change)} {instead}"


def _group_names(found: Comparison) -> set[str]:
    """The names of the options in the parameter groups of an optimizer as the settings build it."""
    weight = nn.Parameter(torch.zeros(1))
    return set(create_optimizer(found.config.training.optimizer, [weight]).param_groups[0])


def _has_unseen_effect(change: Change, groups: set[str]) -> bool:
    """Whether a user's own optimizer keeps a changed option where it cannot be found."""
    section, _, name = change.key.rpartition(".")
    if section != "training.optimizer" or name in NOT_IN_GROUPS:
        return False
    return not groups & {*GROUP_NAMES.get(name, (name,))}


def _keeps_what_it_was_built_for(found: Comparison) -> bool:
    """Whether the user's own schedule carries its options in its state, so that new ones would be lost."""
    type_ = found.config.training.scheduler.type
    return type_ is not None and type_ not in LR_SCHEDULES and not follows_from_the_place(schedule_class(type_))


def _other_images(found: Comparison) -> Iterator[str]:
    if found.other_images and not found.config.training.resume.allow_other_data:
        reasons = "; ".join(map(str, found.changed(Effect.IMAGES))) or "no setting differs, so the files changed"
        yield (
            "the training images are not those of the checkpoint (their fingerprint differs): give the same images, or "
            f"set training.resume.allow_other_data=true to go on with these ({reasons})"
        )
