"""The ``evaluation`` section of a training run: samples are compared with real images every so many epochs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from diffusion_lab.config.doubts import asks_for_guidance
from diffusion_lab.config.evaluated_metrics import direction_of, is_evaluated, logged_names, value_of
from diffusion_lab.config.evaluation_section import LEAST_IMAGES, WITH_WEIGHTS_FILE, EvaluationSettings
from diffusion_lab.config.faults import Fault, closest
from diffusion_lab.config.reading import SettingsReader, Unreadable
from diffusion_lab.config.section import NonNegative, PositiveInt, with_defaults

EVALUATIONS = 10
"""How many ``every: auto`` makes in a run, at most."""

SMALL = 32
"""Side in pixels of the images below which ``features: auto`` is not ``efflite0``."""


@with_defaults(metrics=("fd", "kid"), num_samples=256)
class TrainingEvaluationSettings(EvaluationSettings):
    """``evaluation``: how good samples are while training (`evaluation=on`).

    The values are logged beside the losses as ``val/kid_efflite0`` and so on.
    """

    enabled: bool = Field(default=False, description="Whether to evaluate while training.")
    every: PositiveInt | Literal["auto"] = Field(
        default="auto",
        description="Epochs from one evaluation to the next; the last epoch always has one. `auto`: a tenth of "
        "`training.epochs`, rounded up.",
    )
    sampler_steps: PositiveInt = Field(
        default=10, description="Steps of the sampler, that of `sampler=fast`, each one pass through the network."
    )
    guidance_scale: NonNegative = Field(
        default=1.0, description="Classifier-free guidance; 1 is the plain conditional model, at half the cost."
    )

    def interval(self, epochs: int) -> int:
        """Return ``every`` as a number, for a run of so many epochs."""
        return -(-epochs // EVALUATIONS) if self.every == "auto" else self.every

    def reads_guidance(self, conditioning: str | None) -> bool:
        """Whether the section ``guidance`` has a say in the samples, for a ``model.conditioning.type``."""
        return conditioning is not None and asks_for_guidance(self.guidance_scale)


def is_on(tree: SettingsReader) -> bool:
    """Whether a run trains with evaluation."""
    if tree.is_faulty("evaluation.enabled"):
        raise Unreadable("evaluation.enabled")
    return tree["mode"] == "train" and bool(tree["evaluation.enabled"])


def evaluation_is_read(tree: SettingsReader) -> Iterator[Fault]:
    """A setting that was typed without ``enabled`` would change nothing in silence."""
    if tree["mode"] != "train" or tree["evaluation.enabled"]:
        return
    for name, field in TrainingEvaluationSettings.model_fields.items():
        default = field.get_default()
        value = tree[f"evaluation.{name}"]
        plain = tuple(value) if isinstance(value, list) else value
        if plain != default:
            rule = "has no effect while evaluation.enabled is false: add evaluation=on to the command, or leave it out"
            yield Fault(f"evaluation.{name}", rule, value)


def weights_are_read(tree: SettingsReader) -> Iterator[Fault]:
    if not is_on(tree):
        return
    features, weights = tree["evaluation.features"], tree["evaluation.weights"]
    if weights is not None and features not in WITH_WEIGHTS_FILE and "." not in features:
        rule = f"is read with evaluation.features of {', '.join(WITH_WEIGHTS_FILE)}, not with {features}; leave it out"
        yield Fault("evaluation.weights", rule, str(weights))
    if tree["evaluation.sha256"] is not None and weights is None:
        rule = "is that of the file in evaluation.weights, which is null; leave it out"
        yield Fault("evaluation.sha256", rule, tree["evaluation.sha256"])


def evaluation_steps_fit(tree: SettingsReader) -> Iterator[Fault]:
    if not is_on(tree) or tree["model.diffusion.type"] != "discrete":
        return
    steps, most = tree["evaluation.sampler_steps"], tree["model.diffusion.num_timesteps"]
    if steps > most:
        rule = f"must be at most model.diffusion.num_timesteps, {most}: set evaluation.sampler_steps={most} or fewer"
        yield Fault("evaluation.sampler_steps", rule, steps)


def evaluation_has_what_it_needs(tree: SettingsReader) -> Iterator[Fault]:
    """Enough samples, labels for their agreement, held-out images for the split."""
    if not is_on(tree):
        return
    metrics, count = tree["evaluation.metrics"], tree["evaluation.num_samples"]
    if count < LEAST_IMAGES:
        rule = f"must be at least {LEAST_IMAGES}: metrics of fewer are meaningless"
        yield Fault("evaluation.num_samples", rule, count)
    if "label_agreement" in metrics and tree["model.conditioning.type"] is None:
        rule = (
            "must not name label_agreement for an unconditional model (conditioning=none), whose samples have no label"
        )
        yield Fault("evaluation.metrics", rule, list(metrics))
    if tree["evaluation.split"] == "val" and not tree["training.validation.enabled"]:
        rule = (
            "needs images that are kept from training, and training.validation.enabled=false keeps none: leave that "
            "out, or set evaluation.split=train"
        )
        yield Fault("evaluation.split", rule, "val")


def evaluated_metric_faults(tree: SettingsReader, metric: str) -> Iterator[Fault]:
    """What is wrong with a ``training.validation.metric`` of the evaluation."""
    key = "training.validation.metric"
    if not is_on(tree):
        if not tree["training.callbacks"]:  # which may log this name
            yield Fault(key, "needs evaluation.enabled: true: add evaluation=on to the command", metric)
        return
    names = possible_names(tree)
    if names is not None and metric not in names and not tree["training.callbacks"]:
        rule = f"must be a metric that evaluation.metrics and evaluation.features give: {', '.join(names)}"
        yield Fault(key, rule, metric, closest(metric, names))


def metric_rises_or_falls(tree: SettingsReader) -> Iterator[Fault]:
    """A direction that contradicts the metric would keep the worst checkpoint as the best."""
    metric, section = tree["training.validation.metric"], tree.section("training.validation")
    given = section.get("mode")
    if given is None or not is_on(tree) or not is_evaluated(metric):
        return
    better = direction_of(metric)
    if given != better:
        which = "higher" if better == "max" else "lower"
        rule = f"must be {better} or null with training.validation.metric {metric}, whose {which} values are better"
        yield Fault("training.validation.mode", rule, given)


def possible_names(tree: SettingsReader) -> tuple[str, ...] | None:
    """The names that the evaluation may log; None where a class of the user's own, or a file of weights, names them."""
    features, metrics = tree["evaluation.features"], tree["evaluation.metrics"]
    if "." in features or tree["evaluation.weights"] is not None:
        return None
    if features != "auto":
        return logged_names(metrics, features)
    if tree["model.architecture.image_size"] >= SMALL:
        return logged_names(metrics, "efflite0")
    return (*logged_names(metrics, "digits"), *logged_names(metrics, "pixels"))


def name_with_features(tree: SettingsReader, metric: str) -> str | None:
    """Return the full name of a metric of the evaluation that was named without its features; None for any other."""
    if tree["mode"] != "train":  # the tree has no such section then
        return None
    value = {"fid": "fd", "is": "is", "inception_score": "is"}.get(
        metric.removeprefix("val/"), metric.removeprefix("val/")
    )
    return next((name for name in possible_names(tree) or () if value_of(name) == value), None)
