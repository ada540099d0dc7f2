"""Effects of settings that differ from those of the checkpoint that a run resumes from, by key.

docs/resuming.md has the same table for users; a test compares the two.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from diffusion_lab.config.schema import TrainConfig
from diffusion_lab.console.redaction import redacted, secret_values
from diffusion_lab.console.terminal import printable
from diffusion_lab.faults import shown
from diffusion_lab.metric_names import is_evaluated, validation_direction
from diffusion_lab.typed_settings.settings_reader import SettingsReader, Unreadable, leaves


class Effect(Enum):
    """Effect of a setting that differs."""

    FREE = "takes effect without a message: no weight depends on it"
    APPLIED = "applied from the next step on, and reported"
    APPLIED_TO_LOSS = "applied and reported; the best checkpoint is selected again"
    AT_AN_EPOCH = "applied and reported; refused in the middle of an epoch if the remaining images would differ"
    IMAGES = "applied and reported if the images are the same, else refused without training.resume.allow_other_data"
    EVALUATION = "takes effect without a message, unless training.validation.metric is a metric of the evaluation"
    EVALUATION_TIMES = (
        "takes effect without a message, but is reported if training.validation.metric is a metric of the evaluation"
    )
    RESET_OPTIMIZER = "refused without training.resume.reset_optimizer"
    RESET_SCHEDULER = "refused without training.resume.reset_scheduler"
    REFUSED = "refused: the value must be that of the checkpoint"


RULES: dict[str, Effect] = {
    "experiment": Effect.FREE,
    "mode": Effect.FREE,
    "output": Effect.FREE,
    "logger": Effect.FREE,
    "generation": Effect.FREE,
    "sampler": Effect.FREE,
    "guidance": Effect.EVALUATION,
    "evaluation": Effect.EVALUATION,
    "evaluation.every": Effect.EVALUATION_TIMES,
    "evaluation.cache_dir": Effect.FREE,
    "compute.device": Effect.FREE,
    "compute.seed": Effect.REFUSED,
    "compute.deterministic": Effect.APPLIED,
    "compute.threads": Effect.APPLIED,
    "model": Effect.REFUSED,
    "model.architecture.dropout": Effect.APPLIED,
    "model.conditioning.class_dropout_prob": Effect.APPLIED,
    "data": Effect.IMAGES,
    "data.augmentation": Effect.APPLIED,
    "data.crop": Effect.APPLIED,
    "data.cache": Effect.FREE,
    "data.cache_dir": Effect.FREE,
    "data.loading": Effect.FREE,
    "data.loading.batch_size": Effect.AT_AN_EPOCH,
    "data.loading.shuffle_train": Effect.AT_AN_EPOCH,
    "data.loading.drop_last": Effect.APPLIED,
    "training.epochs": Effect.APPLIED,
    "training.max_steps": Effect.APPLIED,
    "training.max_time": Effect.APPLIED,
    "training.overfit_batches": Effect.IMAGES,
    "training.profiler": Effect.FREE,
    "training.accumulate_batches": Effect.AT_AN_EPOCH,
    "training.log_interval": Effect.FREE,
    "training.loss": Effect.APPLIED_TO_LOSS,
    "training.optimizer": Effect.APPLIED,
    "training.optimizer.type": Effect.RESET_OPTIMIZER,
    "training.optimizer.amsgrad": Effect.RESET_OPTIMIZER,
    "training.scheduler": Effect.APPLIED,
    "training.scheduler.type": Effect.RESET_SCHEDULER,
    "training.scheduler.mode": Effect.RESET_SCHEDULER,
    "training.scheduler.last_epoch": Effect.RESET_SCHEDULER,
    "training.ema": Effect.APPLIED,
    "training.ema.enabled": Effect.REFUSED,
    "training.ema.further_decays": Effect.REFUSED,
    "training.checkpointing": Effect.FREE,
    "training.validation": Effect.APPLIED,
    "training.validation.metric": Effect.APPLIED_TO_LOSS,
    "training.validation.mode": Effect.APPLIED_TO_LOSS,
    "training.callbacks": Effect.APPLIED,
    "training.visualization": Effect.FREE,
    "training.performance": Effect.APPLIED,
    "training.watch": Effect.APPLIED,
    "training.resume": Effect.FREE,
}
"""Effects by key or section; the longest matching one applies."""


READ_ONLY_WITH = {
    "model.conditioning": "model.conditioning.type",
    "training.scheduler": "training.scheduler.type",
    "training.ema": "training.ema.enabled",
    "training.validation": "training.validation.enabled",
    "data.augmentation.color_jitter": "data.augmentation.color_jitter.enabled",
}
"""Sections that are not read if the given key in them is false or null."""


@dataclass(frozen=True)
class Change:
    """Setting whose value differs from that in the checkpoint.

    Args:
        key: Dotted key.
        then: Value in the checkpoint.
        now: Current value.
        effect: Effect of the difference.
    """

    key: str
    then: Any
    now: Any
    effect: Effect

    def __str__(self) -> str:
        return printable(f"{self.key} was {shown(self.then)} in the checkpoint and is {shown(self.now)}")


def effect_of(key: str) -> Effect | None:
    """Return the effect for a key; None if this version does not know the key."""
    while key and key not in RULES:
        key = key.rpartition(".")[0]
    return RULES.get(key)


def changes_since(then: Mapping[str, Any], config: TrainConfig) -> list[Change]:
    """Return the settings that differ from those of a checkpoint, in the order of the schema, except ``Effect.FREE``.

    A key that the checkpoint lacks had its default value. If another learning-rate schedule was selected, only its
    type is listed, because its options belong to another class.

    Args:
        then: Settings in the checkpoint.
        config: Settings of the resumed run; its seed, threads and ``sigma_data`` may be unset.
    """
    now = config.model_dump(mode="json")
    secrets = secret_values(now, sys.argv)
    then, now = redacted(then, secrets), redacted(now, secrets)
    before, present = SettingsReader(then, TrainConfig), SettingsReader(now, TrainConfig)
    changes: list[Change] = []
    watches_evaluation = is_evaluated(config.training.validation.metric)
    guided = config.evaluation.reads_guidance(config.model.conditioning.type)
    for key in dict.fromkeys([*leaves(now), *leaves(then)]):
        effect, was, value = effect_of(key), _effective_value(before, key), _effective_value(present, key)
        if effect in (Effect.EVALUATION, Effect.EVALUATION_TIMES) and not watches_evaluation:
            effect = Effect.FREE
        if key.startswith("guidance.") and not guided:
            effect = Effect.FREE
        if effect not in (None, Effect.FREE) and was != value and not _is_unset(key, value):
            changes.append(Change(key, was, value, effect))
    schedule_changed = any(change.key == "training.scheduler.type" for change in changes)
    return [change for change in changes if _is_read(change.key, present, schedule_changed)]


def _effective_value(tree: SettingsReader, key: str) -> Any:
    """Return the value of a key, or the one that it implies if it is null."""
    value = _read(tree, key)
    if value is None and key == "training.scheduler.mode" and _read(tree, "training.scheduler.type") == "plateau":
        key, value = "training.validation.mode", _read(tree, "training.validation.mode")
    if key == "training.validation.mode":
        return validation_direction({"mode": value, "metric": _read(tree, "training.validation.metric")})
    return value


def _read(tree: SettingsReader, key: str) -> Any:
    try:
        return tree[key]
    except Unreadable:
        return None


def _is_unset(key: str, value: Any) -> bool:
    """Return whether the settings leave a value to the checkpoint."""
    unset = ("compute.seed", None), ("compute.threads", "auto"), ("model.diffusion.sigma_data", "auto")
    return (key, value) in unset


def _is_read(key: str, present: SettingsReader, schedule_changed: bool) -> bool:
    if schedule_changed and key.startswith("training.scheduler."):
        return key == "training.scheduler.type"
    switches = (switch for section, switch in READ_ONLY_WITH.items() if key.startswith(f"{section}."))
    return all(key == switch or _read(present, switch) for switch in switches)
