"""Comparison of the settings and images of a run with its checkpoint; incompatible ones are refused on resuming."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from diffusion_lab.checkpoint import Checkpoint, load_weights
from diffusion_lab.config.schema import TrainConfig
from diffusion_lab.console.command_line import program_name
from diffusion_lab.console.terminal import printable
from diffusion_lab.data.auto_size import CHANNELS, SIZE
from diffusion_lab.data.datamodule import ImageDataModule
from diffusion_lab.denoiser import Denoiser
from diffusion_lab.diffusion.draws import VALIDATION_DRAWS
from diffusion_lab.faults import shown
from diffusion_lab.runs.identity import data_fingerprint, validation_fingerprint
from diffusion_lab.training.lr_schedules import follows_from_the_place
from diffusion_lab.training.optimizers import create_optimizer
from diffusion_lab.training.resume_rules import Change, Effect, changes_since

GROUP_NAMES = {"learning_rate": ("lr", "initial_lr")}
"""Names of options in the parameter groups of an optimizer, where they differ from the names of the keys."""

NOT_IN_GROUPS = ("type", "gradient_clip_norm")
"""Keys of ``training.optimizer`` that are not options of its class."""

LENGTH_KEYS = (
    "training.epochs",
    "training.max_steps",
    "training.accumulate_batches",
    "data.loading.batch_size",
    "data.loading.drop_last",
)
"""Keys that the number of optimizer steps depends on."""

ADVICE = {
    "compute.seed": " (leave it out or set it to null, or start a new run with the other seed)",
    "training.ema.enabled": " (or start a new run)",
    "training.ema.further_decays": " (or start a new run: an average begins with its run)",
}
"""Remedies for refused values."""


@dataclass(frozen=True)
class Comparison:
    """Differences of the current settings and images from those of a checkpoint.

    Args:
        config: Current settings.
        checkpoint: Checkpoint to resume from.
        changes: Settings that differ.
        images_changed: Whether the training images differ.
        validation_images_changed: Whether the validation images differ.
    """

    config: TrainConfig
    checkpoint: Checkpoint
    changes: Sequence[Change]
    images_changed: bool
    validation_images_changed: bool

    def changed(self, *effects: Effect) -> list[Change]:
        """Return the changes with one of these effects."""
        return [change for change in self.changes if change.effect in effects]

    @property
    def changed_keys(self) -> set[str]:
        """Keys of the settings that differ."""
        return {change.key for change in self.changes}

    @property
    def optimizer_options(self) -> tuple[str, ...]:
        """Changed options of the optimizer's class, by the names in its parameter groups."""
        keys = [key.rpartition(".")[2] for key in self.changed_keys if key.startswith("training.optimizer.")]
        options = [GROUP_NAMES.get(key, (key,)) for key in sorted(keys) if key not in NOT_IN_GROUPS]
        return tuple(name for names in options for name in names)

    @property
    def schedule_changed(self) -> bool:
        """Whether the learning-rate schedule built from the settings differs."""
        return (
            any(key.startswith("training.scheduler.") for key in self.changed_keys)
            or bool(self.changed_keys & {"training.optimizer.learning_rate", *LENGTH_KEYS})
            or self.images_changed
        )

    @property
    def loss_weights_changed(self) -> bool:
        """Whether the version that wrote the checkpoint weighted noise levels of the loss differently.

        Before format 2, sigmoid was not per unit of log-SNR, and l1 and huber had the weights of the squared error.
        """
        weighting, penalty = self.config.training.loss.weighting.type, self.config.training.loss.penalty.type
        other_power = penalty in ("l1", "huber") and weighting in ("min_snr", "p2", "edm")
        return self.checkpoint.metadata.get("format") == 1 and (weighting == "sigmoid" or other_power)

    @property
    def validation_draws_changed(self) -> bool:
        """Whether the metric is a validation loss that the version that wrote the checkpoint computed on other noise.

        Earlier versions drew noise and times for each batch instead of each image.
        """
        is_drawn = self.config.training.validation.logged_metric.startswith("val/loss")
        return is_drawn and self.checkpoint.metadata.get("validation_draws") != VALIDATION_DRAWS


def compare(checkpoint: Checkpoint, config: TrainConfig, data: ImageDataModule) -> Comparison:
    """Compare the current settings and images with those of a checkpoint.

    Args:
        checkpoint: Checkpoint to resume from.
        config: Current settings.
        data: Current images.
    """
    metadata, images = checkpoint.metadata, data_fingerprint(data.train)
    return Comparison(
        config,
        checkpoint,
        changes_from(checkpoint, config),
        images_changed=metadata.get("data_fingerprint") not in (None, images),
        validation_images_changed="validation_fingerprint" in metadata
        and metadata["validation_fingerprint"] != validation_fingerprint(data.train, data.val, images),
    )


def changes_from(checkpoint: Checkpoint, config: TrainConfig) -> list[Change]:
    """Return the settings that differ; none if the checkpoint does not record its settings."""
    if checkpoint.model is None:
        return []
    model, now = checkpoint.model.model_dump(mode="json"), config.model.architecture
    leftovers = set(now.all_options()) - now.options.keys() if now.path_of(now.type) else ()
    for option in leftovers:  # earlier versions recorded the keys of the U-Net for custom networks
        model["architecture"].pop(option, None)
    return changes_since(dict(checkpoint.config or {}) | {"model": model}, config)


def check_image_shape(checkpoint: Checkpoint, config: TrainConfig) -> None:
    """Check, before images are decoded, that image size and channels of the model are those of the checkpoint.

    Raises:
        ValueError: Size or channels differ; the message has the setting to use.
    """
    faults = []
    for change in changes_from(checkpoint, config):
        if change.key in (SIZE, CHANNELS):
            setting = f"set the checkpoint's value, {change.key}={shown(change.then)}"
            advice = f" (auto measures the current folder: {setting})" if config.data.type == "image_folder" else ""
            faults.append(_mismatch(change) + advice)
    _raise_faults(checkpoint, faults)


def check_compatible(comparison: Comparison, denoiser: Denoiser) -> None:
    """Check that training can resume.

    Raises:
        ValueError: The checkpoint contains weights of another architecture, or settings differ that cannot be applied;
            the message names each with its remedy.
    """
    checkpoint = comparison.checkpoint
    faults = [_mismatch(change) + ADVICE.get(change.key, "") for change in comparison.changed(Effect.REFUSED)]
    try:
        _check_class_count(comparison)
        checkpoint.check_input_scaling(denoiser)
        load_weights(denoiser, checkpoint.weights, checkpoint.path)  # refuses those of another architecture
    except ValueError as error:
        faults.append(str(error))
    if checkpoint.foreign is not None and checkpoint.foreign.saved_in_training:
        pass  # its other contents are used if they match
    elif checkpoint.config is None or checkpoint.model is None or checkpoint.epochs_done is None:
        faults.append(
            f"training.resume.checkpoint must be a file written by {program_name('train')}, or a dict with "
            f"model_state_dict, not weights alone{_conversion_advice(checkpoint)}"
        )
    else:
        faults += _missing_state_faults(comparison, checkpoint.config)
        faults += _reset_faults(comparison)
        faults += _image_faults(comparison)
    _raise_faults(checkpoint, faults)


def _raise_faults(checkpoint: Checkpoint, faults: Sequence[str]) -> None:
    if faults:
        raise ValueError(printable(f"cannot resume from {checkpoint.path}:\n  " + "\n  ".join(faults)))


def _mismatch(change: Change) -> str:
    return f"{change.key} must be the checkpoint's value, {shown(change.then)}, got {shown(change.now)}"


def _conversion_advice(checkpoint: Checkpoint) -> str:
    """Return how to save plain weights as a dict that can be resumed from, as the continuation of the message."""
    if checkpoint.foreign is None:
        return ""
    path = checkpoint.path
    dictionary = path.with_name(f"{path.stem}_dict{path.suffix}")
    return (
        f". To train them further from epoch 1, save them as one, in Python: old = torch.load({str(path)!r}); "
        f'torch.save({{"model_state_dict": old.get("state_dict", old)}}, {str(dictionary)!r})'
    )


def _check_class_count(comparison: Comparison) -> None:
    """Raise ValueError if the file of another program has other classes than the settings."""
    model = comparison.config.model
    classes = comparison.checkpoint.with_file_classes(model).conditioning.classes
    if classes != model.conditioning.classes:
        raise ValueError(
            f"model.conditioning.type must be class (conditioning=class): {comparison.checkpoint.path} is of a model "
            f"of {classes} classes, got null"
        )


def _missing_state_faults(comparison: Comparison, then: Mapping[str, Any]) -> Iterator[str]:
    resume = comparison.config.training.resume
    saved = then["training"]["checkpointing"]["save_optimizer"]
    if not saved and not (resume.reset_optimizer and resume.reset_scheduler):
        yield (
            "training.resume.checkpoint contains no optimizer state (training.checkpointing.save_optimizer=false): "
            "set training.resume.reset_optimizer=true and training.resume.reset_scheduler=true"
        )


def _reset_faults(comparison: Comparison) -> Iterator[str]:
    resume = comparison.config.training.resume
    if not resume.reset_optimizer:
        groups = _parameter_group_options(comparison)
        for change in comparison.changes:
            if change.effect == Effect.RESET_OPTIMIZER or _is_unverifiable(change, groups):
                yield _reset_fault(change, "optimizer", "resets the optimizer's running averages")
    if not resume.reset_scheduler:
        fixed_options = _has_fixed_options(comparison)
        for change in comparison.changes:
            in_schedule = change.key.startswith("training.scheduler.")
            affects_schedule = in_schedule or change.key in ("training.optimizer.learning_rate", *LENGTH_KEYS)
            if change.effect == Effect.RESET_SCHEDULER or (fixed_options and affects_schedule):
                yield _reset_fault(change, "scheduler", "restarts the learning-rate schedule for the remaining epochs")


def _reset_fault(change: Change, part: str, effect: str) -> str:
    return f"{_mismatch(change)} (or set training.resume.reset_{part}=true, which {effect})"


def _parameter_group_options(comparison: Comparison) -> set[str]:
    """Return the names of the options in the parameter groups of the optimizer that the settings define."""
    weight = nn.Parameter(torch.zeros(1))
    return set(create_optimizer(comparison.config.training.optimizer, [weight]).param_groups[0])


def _is_unverifiable(change: Change, groups: set[str]) -> bool:
    """Return whether a custom optimizer does not store a changed option in its parameter groups."""
    section, _, name = change.key.rpartition(".")
    if section != "training.optimizer" or name in NOT_IN_GROUPS:
        return False
    return not groups & {*GROUP_NAMES.get(name, (name,))}


def _has_fixed_options(comparison: Comparison) -> bool:
    """Return whether a custom schedule stores its options in its state, so that new ones would be lost."""
    scheduler = comparison.config.training.scheduler
    path = scheduler.path_of(scheduler.type)
    return path is not None and not follows_from_the_place(scheduler.class_of(path))


def _image_faults(comparison: Comparison) -> Iterator[str]:
    if comparison.images_changed and not comparison.config.training.resume.allow_other_data:
        reasons = "; ".join(map(str, comparison.changed(Effect.IMAGES))) or "no setting differs, so the files changed"
        yield (
            "the training images are not those of the checkpoint (their fingerprint differs): use the same images, or "
            f"set training.resume.allow_other_data=true to continue with these ({reasons})"
        )
