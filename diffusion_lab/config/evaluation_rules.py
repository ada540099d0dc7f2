"""Rules that involve several keys of ``evaluation`` in a training run."""

from __future__ import annotations

from collections.abc import Iterator

from diffusion_lab.config.evaluation_section import WITH_WEIGHTS_FILE, TrainingEvaluationSettings
from diffusion_lab.faults import Fault, closest
from diffusion_lab.metric_names import MIN_IMAGES, direction_of, is_evaluated, logged_names, value_of
from diffusion_lab.typed_settings.settings_reader import SettingsReader, Unreadable

SMALL = 32
"""Image size in pixels below which ``features: auto`` is not ``efflite0``."""


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
    if features != "auto":
        return logged_names(metrics, features)
    if tree["model.architecture.image_size"] >= SMALL:
        return logged_names(metrics, "efflite0")
    return (*logged_names(metrics, "digits"), *logged_names(metrics, "pixels"))


def name_with_features(tree: SettingsReader, metric: str) -> str | None:
    """Return the full name of a metric of the evaluation that was given without its features; None for any other."""
    if tree["mode"] != "train":  # no such section in the tree
        return None
    value = {"fid": "fd", "is": "is", "inception_score": "is"}.get(
        metric.removeprefix("val/"), metric.removeprefix("val/")
    )
    return next((name for name in possible_names(tree) or () if value_of(name) == value), None)
