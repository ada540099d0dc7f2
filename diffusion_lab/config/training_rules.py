"""Rules that involve several keys of ``training``, and the keys for sampling with the trained weights."""

from __future__ import annotations

from collections.abc import Iterator

from diffusion_lab.config.evaluation_rules import (
    evaluated_metric_faults,
    is_enabled,
    name_with_features,
    possible_names,
)
from diffusion_lab.config.settings_reader import SettingsReader
from diffusion_lab.faults import Fault, closest
from diffusion_lab.faults.key_aliases import keys_with_alias
from diffusion_lab.metric_names import LOGGED_METRICS, LOSSES, RAW_LOSSES, VALIDATION_LOSSES, is_evaluated


def check_metric_is_logged(tree: SettingsReader) -> Iterator[Fault]:
    metric = tree["training.validation.metric"]
    if is_evaluated(metric):
        yield from evaluated_metric_faults(tree, metric)
        return
    known = (*VALIDATION_LOSSES, *LOGGED_METRICS, *(possible_names(tree) or () if is_enabled(tree) else ()))
    # Metrics of custom callbacks are unknown here: the first validation fails if none of them logs the name.
    if metric not in known and not tree["training.callbacks"]:
        rule = (
            f"must be a metric that the run logs: {', '.join(LOSSES)} (of validation, as val/loss etc.), loss_raw etc. "
            "(of the raw weights), train/loss etc., train/learning_rate, val/kid_efflite0 etc. (with "
            "evaluation=on), or one that a class in training.callbacks logs"
        )
        is_rate = "training.optimizer.learning_rate" in keys_with_alias(metric.rpartition("/")[2])
        suggestion = "train/learning_rate" if is_rate else closest(metric, known) or name_with_features(tree, metric)
        yield Fault("training.validation.metric", rule, metric, suggestion)


def check_raw_loss_needs_ema(tree: SettingsReader) -> Iterator[Fault]:
    metric = tree["training.validation.metric"]
    name = metric.removeprefix("val/")
    if name in RAW_LOSSES and not tree["training.ema.enabled"]:
        plain = metric.replace("loss_raw", "loss")
        rule = (
            f"needs training.ema.enabled: without EMA, validation logs the loss of the trained weights as {plain}: set "
            f"training.validation.metric={plain}"
        )
        yield Fault("training.validation.metric", rule, metric)


def _is_known_without_validation(tree: SettingsReader) -> bool:
    """Return whether the monitored metric comes from the evaluation and needs no validation."""
    return is_enabled(tree) and is_evaluated(tree["training.validation.metric"])


def check_best_needs_validation(tree: SettingsReader) -> Iterator[Fault]:
    best_only = tree["training.checkpointing.save_best_only"]
    if best_only and not tree["training.validation.enabled"] and not _is_known_without_validation(tree):
        rule = "needs training.validation.enabled: without validation there is no best checkpoint"
        yield Fault("training.checkpointing.save_best_only", rule, best_only)


def check_plateau_needs_validation(tree: SettingsReader) -> Iterator[Fault]:
    kind = tree["training.scheduler.type"]
    if kind == "plateau" and not tree["training.validation.enabled"] and not _is_known_without_validation(tree):
        rule = (
            "monitors the validation metric, which training.validation.enabled=false disables: add "
            "training.validation.enabled=true to the command (which splits off images if data.paths.val is null)"
        )
        yield Fault("training.scheduler.type", rule, kind)


def check_amp_precision(tree: SettingsReader) -> Iterator[Fault]:
    precision = tree["training.performance.precision"]
    if precision == 32 and tree["training.performance.use_amp"]:
        rule = (
            "must be auto, bf16, fp16 or null with training.performance.use_amp: true which requests less than 32 bits"
        )
        yield Fault("training.performance.precision", rule, precision)


def check_ema_decays(tree: SettingsReader) -> Iterator[Fault]:
    known = [tree["training.ema.decay"]]
    for index, decay in enumerate(tree["training.ema.further_decays"]):
        if decay in known:
            rule = "must differ from training.ema.decay and from the others: it would be the same EMA"
            yield Fault(f"training.ema.further_decays[{index}]", rule, decay)
        known.append(decay)


def check_fused_or_foreach(tree: SettingsReader) -> Iterator[Fault]:
    if tree["training.optimizer.foreach"] and tree["training.optimizer.fused"]:
        yield Fault("training.optimizer.foreach", "cannot be true together with training.optimizer.fused", True)


def check_resume_keys_are_used(tree: SettingsReader) -> Iterator[Fault]:
    """Yield faults of resume keys that are set without ``enabled``, which would silently train from scratch."""
    if tree["mode"] != "train" or tree["training.resume.enabled"]:
        return
    rule = "has no effect while training.resume.enabled is false: set it to true to resume (command line: "
    for name in ("checkpoint", "reset_optimizer", "reset_scheduler", "allow_other_data"):
        value = tree[f"training.resume.{name}"]
        if value:
            yield Fault(f"training.resume.{name}", f"{rule}training.resume.enabled=true), or leave it out", value)


def check_ema_decay_needs_ema(tree: SettingsReader) -> Iterator[Fault]:
    decay = tree["generation.sampling.ema_decay"]
    if decay is not None and not tree["generation.sampling.use_ema"]:
        yield Fault("generation.sampling.ema_decay", "needs generation.sampling.use_ema: it selects an EMA", decay)


def check_sampler_steps(tree: SettingsReader) -> Iterator[Fault]:
    if tree["mode"] != "train" or not tree.has_key("sampler.steps") or tree["model.diffusion.type"] != "discrete":
        return
    steps, most = tree["sampler.steps"], tree["model.diffusion.num_timesteps"]
    if isinstance(steps, int) and steps > most:
        rule = f"must be at most model.diffusion.num_timesteps, {most}: set sampler.steps={most} or fewer"
        yield Fault("sampler.steps", rule, steps)
