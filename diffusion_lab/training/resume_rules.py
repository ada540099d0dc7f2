"""What follows when a setting differs from that of the checkpoint a run resumes from, key by key.

docs/resuming.md holds the same table for users; a test compares the two.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from diffusion_lab.config.evaluated_metrics import is_evaluated, validation_direction
from diffusion_lab.config.schema import TrainConfig
from diffusion_lab.config.settings_reader import SettingsReader, Unreadable, leaves
from diffusion_lab.console.redaction import redacted, secret_values
from diffusion_lab.console.terminal import printable
from diffusion_lab.faults import shown


class Effect(Enum):
    """What follows from a setting that differs."""

    FREE = "takes effect without a message: no weight depends on it"
    APPLIED = "applied from the next step on, and reported"
    APPLIED_TO_LOSS = "applied and reported; the best checkpoint is chosen anew"
    AT_AN_EPOCH = "applied and reported; refused in the middle of an epoch where its rest would not be the rest"
    IMAGES = "applied and reported where the images are the same; else refused without training.resume.allow_other_data"
    EVALUATION = "takes effect without a message, but where training.validation.metric is one of the evaluation"
    EVALUATION_TIMES = (
        "takes effect without a message, but is reported where training.validation.metric is one of the evaluation"
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
"""By key or section; the longest that matches counts."""


READ_ONLY_WITH = {
    "model.conditioning": "model.conditioning.type",
    "training.scheduler": "training.scheduler.type",
    "training.ema": "training.ema.enabled",
    "training.validation": "training.validation.enabled",
    "data.augmentation.color_jitter": "data.augmentation.color_jitter.enabled",
}
"""Sections that are not read where a key of theirs is false or null."""


@dataclass(frozen=True)
class Change:
    """A setting whose value differs from that of the checkpoint."""

    key: str
    then: Any
    now: Any
    effect: Effect

    def __str__(self) -> str:
        return printable(f"{self.key} was {shown(self.then)} in the checkpoint and is {shown(self.now)}")


def effect_of(key: str) -> Effect | None:
    """The rule for a key; None for one that this version does not know."""
    while key and key not in RULES:
        key = key.rpartition(".")[0]
    return RULES.get(key)


def changes_since(then: Mapping[str, Any], config: TrainConfig) -> list[Change]:
    """The settings that are not those of a checkpoint, in the order of the schema, without those that are free.

    A key that the checkpoint lacks had its default then. Where another learning-rate schedule was chosen, its options
    are another's, and only the choice is listed.

    Args:
        then: The settings in the checkpoint.
        config: Those of the run that resumes, whose seed, threads and ``sigma_data`` may be left open.
    """
    now = config.model_dump(mode="json")
    secrets = secret_values(now, sys.argv)
    then, now = redacted(then, secrets), redacted(now, secrets)
    before, present = SettingsReader(then, TrainConfig), SettingsReader(now, TrainConfig)
    found: list[Change] = []
    measured = is_evaluated(config.training.validation.metric)
    guided = config.evaluation.reads_guidance(config.model.conditioning.type)
    for key in dict.fromkeys([*leaves(now), *leaves(then)]):
        effect, was, value = effect_of(key), _meaning(before, key), _meaning(present, key)
        if effect in (Effect.EVALUATION, Effect.EVALUATION_TIMES) and not measured:
            effect = Effect.FREE
        if key.startswith("guidance.") and not guided:
            effect = Effect.FREE
        if effect not in (None, Effect.FREE) and was != value and not _is_left_open(key, value):
            found.append(Change(key, was, value, effect))
    other_schedule = any(change.key == "training.scheduler.type" for change in found)
    return [change for change in found if _is_read(change.key, present, other_schedule)]


def _meaning(tree: SettingsReader, key: str) -> Any:
    """The value of a key, or what it stands for where it is null."""
    found = _read(tree, key)
    if found is None and key == "training.scheduler.mode" and _read(tree, "training.scheduler.type") == "plateau":
        key, found = "training.validation.mode", _read(tree, "training.validation.mode")
    if key == "training.validation.mode":
        return validation_direction({"mode": found, "metric": _read(tree, "training.validation.metric")})
    return found


def _read(tree: SettingsReader, key: str) -> Any:
    try:
        return tree[key]
    except Unreadable:
        return None


def _is_left_open(key: str, value: Any) -> bool:
    """Whether the settings leave to the checkpoint what it is."""
    open_ones = ("compute.seed", None), ("compute.threads", "auto"), ("model.diffusion.sigma_data", "auto")
    return (key, value) in open_ones


def _is_read(key: str, present: SettingsReader, other_schedule: bool) -> bool:
    if other_schedule and key.startswith("training.scheduler."):
        return key == "training.scheduler.type"
    switches = (switch for section, switch in READ_ONLY_WITH.items() if key.startswith(f"{section}."))
    return all(key == switch or _read(present, switch) for switch in switches)
