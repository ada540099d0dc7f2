"""Rules that involve several keys of ``training``, ``evaluation`` or sampling with the trained weights."""

from __future__ import annotations

from collections.abc import Iterator

from diffusion_lab.config.evaluation_section import WITH_WEIGHTS_FILE, TrainingEvaluationSettings
from diffusion_lab.faults import Fault, closest
from diffusion_lab.faults.key_aliases import keys_with_alias
from diffusion_lab.metric_names import (
    LOGGED_METRICS,
    LOSSES,
    MIN_IMAGES,
    RAW_LOSSES,
    VALIDATION_LOSSES,
    direction_of,
    evaluated_names,
    is_evaluated,
    value_of,
    value_without_features,
)
from diffusion_lab.typed_settings.settings_reader import SettingsReader, Unreadable


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


def is_enabled(tree: SettingsReader) -> bool:
    """Return whether a run trains with evaluation."""
    if tree.is_faulty("evaluation.enabled"):
        raise Unreadable("evaluation.enabled")
    return tree["mode"] == "train" and bool(tree["evaluation.enabled"])


def check_evaluation_is_used(tree: SettingsReader) -> Iterator[Fault]:
    """Yield faults of settings without ``enabled``, which would silently have no effect."""
    if tree["mode"] != "train" or tree["evaluation.enabled"]:
        return
    for name, field in TrainingEvaluationSettings.model_fields.items():
        default = field.get_default()
        value = tree[f"evaluation.{name}"]
        plain = tuple(value) if isinstance(value, list) else value
        if plain != default:
            rule = "has no effect while evaluation.enabled is false: add evaluation=on to the command, or leave it out"
            yield Fault(f"evaluation.{name}", rule, value)


def check_weights_are_used(tree: SettingsReader) -> Iterator[Fault]:
    if not is_enabled(tree):
        return
    features, weights = tree["evaluation.features"], tree["evaluation.weights"]
    if weights is not None and features not in WITH_WEIGHTS_FILE and "." not in features:
        rule = f"is used with evaluation.features of {', '.join(WITH_WEIGHTS_FILE)}, not with {features}; leave it out"
        yield Fault("evaluation.weights", rule, str(weights))
    if tree["evaluation.sha256"] is not None and weights is None:
        rule = "is that of the file in evaluation.weights, which is null; leave it out"
        yield Fault("evaluation.sha256", rule, tree["evaluation.sha256"])


def check_evaluation_steps(tree: SettingsReader) -> Iterator[Fault]:
    if not is_enabled(tree) or tree["model.diffusion.type"] != "discrete":
        return
    steps, most = tree["evaluation.sampler_steps"], tree["model.diffusion.num_timesteps"]
    if steps > most:
        rule = f"must be at most model.diffusion.num_timesteps, {most}: set evaluation.sampler_steps={most} or fewer"
        yield Fault("evaluation.sampler_steps", rule, steps)


def check_evaluation_requirements(tree: SettingsReader) -> Iterator[Fault]:
    """Yield faults of missing requirements: enough samples, labels to agree with, held-out images."""
    if not is_enabled(tree):
        return
    metrics, count = tree["evaluation.metrics"], tree["evaluation.num_samples"]
    if count < MIN_IMAGES:
        rule = f"must be at least {MIN_IMAGES}: metrics of fewer are meaningless"
        yield Fault("evaluation.num_samples", rule, count)
    if "label_agreement" in metrics and tree["model.conditioning.type"] is None:
        rule = (
            "must not name label_agreement for an unconditional model (conditioning=none), whose samples have no label"
        )
        yield Fault("evaluation.metrics", rule, list(metrics))
    if tree["evaluation.split"] == "val" and not tree["training.validation.enabled"]:
        rule = (
            "needs held-out images, and training.validation.enabled=false holds out none: leave that "
            "out, or set evaluation.split=train"
        )
        yield Fault("evaluation.split", rule, "val")


def evaluated_metric_faults(tree: SettingsReader, metric: str) -> Iterator[Fault]:
    """Yield the faults of a ``training.validation.metric`` of the evaluation."""
    key = "training.validation.metric"
    if not is_enabled(tree):
        if not tree["training.callbacks"]:  # which may log this name
            yield Fault(key, "needs evaluation.enabled: true: add evaluation=on to the command", metric)
        return
    names = possible_names(tree)
    if names is not None and metric not in names and not tree["training.callbacks"]:
        rule = f"must be a metric that evaluation.metrics and evaluation.features give: {', '.join(names)}"
        yield Fault(key, rule, metric, closest(metric, names))


def check_metric_direction(tree: SettingsReader) -> Iterator[Fault]:
    """Yield faults of a mode that contradicts the metric, so that the worst checkpoint would be kept as the best."""
    metric, section = tree["training.validation.metric"], tree.section("training.validation")
    mode = section.get("mode")
    if mode is None or not is_enabled(tree) or not is_evaluated(metric):
        return
    better = direction_of(metric)
    if mode != better:
        which = "higher" if better == "max" else "lower"
        rule = f"must be {better} or null with training.validation.metric {metric}, whose {which} values are better"
        yield Fault("training.validation.mode", rule, mode)


def possible_names(tree: SettingsReader) -> tuple[str, ...] | None:
    """Return the names that the evaluation may log; None if a custom class or a file of weights determines them."""
    features, metrics = tree["evaluation.features"], tree["evaluation.metrics"]
    if "." in features or tree["evaluation.weights"] is not None:
        return None
    return evaluated_names(metrics, features, tree["model.architecture.image_size"])


def name_with_features(tree: SettingsReader, metric: str) -> str | None:
    """Return the full name of a metric of the evaluation that was given without its features; None for any other."""
    if tree["mode"] != "train":  # no such section in the tree
        return None
    value = value_without_features(metric)
    return next((name for name in possible_names(tree) or () if value_of(name) == value), None)
