"""Warnings about settings that are valid but probably not intended, as far as the settings alone show.

Warnings that need the images are in ``training/suspicious_settings.py``, those that need a checkpoint in
``generate.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from diffusion_lab.config.evaluated_metrics import is_evaluated, validation_direction
from diffusion_lab.config.settings_reader import SettingsReader

USUAL_CLIP_NORMS = (0.01, 100.0)

MAX_SIGNAL_LEFT = 0.1
"""Image signal left next to the noise, ``alpha / sigma``, at the end of a noise process."""

# An unconditional model ignores guidance, as the format says, and its default tree is unconditional with a scale of 3.
# A scale that is only a default is therefore no mistake and gives no warning: 3 in the default tree, 2 in the groups of
# `conf/`. Any other value was typed by someone who expects an effect.
DEFAULT_SCALES: dict[str, tuple[float, ...]] = {
    "training.visualization.guidance_scale": (2.0, 3.0),
    "evaluation.guidance_scale": (),
    "generation.sampling.guidance_scale": (2.0,),  # the default of sample.py; a file with 3 was written for generation
}


def suspicious_settings(tree: SettingsReader) -> Iterator[str]:
    """Yield the warnings about a valid tree; none with ``mode: generate``, where they depend on the checkpoint."""
    if tree["mode"] != "train":
        return
    clip = tree["training.optimizer.gradient_clip_norm"]
    low, high = USUAL_CLIP_NORMS
    if clip is not None and not low <= clip <= high:
        effect = "nearly stops learning" if clip < low else "hardly ever clips"
        usual = f"usual values lie between {low} and {high:g}"
        yield f"training.optimizer.gradient_clip_norm = {clip:g} {effect}; {usual}"
    yield from _cosine_warnings(tree)
    if tree["training.optimizer.maximize"]:
        yield "training.optimizer.maximize = true maximizes the loss, so that the model unlearns the images"
    mode, better = tree["training.scheduler.mode"], validation_direction(tree.section("training.validation"))
    if tree["training.scheduler.type"] == "plateau" and mode not in (None, better):
        yield (
            f"training.scheduler.mode = {mode} differs from training.validation.mode = {better}: the learning rate "
            "drops when training.validation.metric stops moving in one direction, and the best checkpoint is the one "
            "furthest in the other"
        )
    if tree["training.visualization.enabled"]:
        yield from _visualization_warnings(tree)
    if tree["evaluation.enabled"]:
        yield from _evaluation_warnings(tree)


def _evaluation_warnings(tree: SettingsReader) -> Iterator[str]:
    key, every, epochs = "evaluation.guidance_scale", tree["evaluation.every"], tree["training.epochs"]
    if tree["model.conditioning.type"] is None:
        yield from guidance_warnings(key, tree[key])
    else:
        yield from dropout_warnings(key, tree[key], tree["model.conditioning.class_dropout_prob"])
    metric = tree["training.validation.metric"]
    if is_evaluated(metric) and every != "auto" and every >= epochs > 1:
        yield (
            f"evaluation.every = {every} computes {metric} only once, after the last of {epochs} epochs, which is then "
            "the best checkpoint: a smaller number gives training.validation.metric a choice"
        )


def _cosine_warnings(tree: SettingsReader) -> Iterator[str]:
    if tree["training.scheduler.type"] != "cosine" or tree["training.scheduler.last_epoch"] in (None, -1):
        return
    epochs, done = tree["training.epochs"], tree["training.scheduler.last_epoch"]
    down = epochs if tree["training.scheduler.T_max"] == "auto" else tree["training.scheduler.T_max"]
    if done + epochs > down:
        yield (
            f"training.scheduler.last_epoch = {done} ends the run in epoch {done + epochs} of a cosine that reaches "
            f"its minimum in epoch {down} and rises again; training.scheduler.T_max={done + 1 + epochs} ends with the "
            "run"
        )


def _visualization_warnings(tree: SettingsReader) -> Iterator[str]:
    section = "training.visualization"
    if tree["model.conditioning.type"] is None:
        yield from guidance_warnings(f"{section}.guidance_scale", tree[f"{section}.guidance_scale"])
    else:
        scale, dropout = tree[f"{section}.guidance_scale"], tree["model.conditioning.class_dropout_prob"]
        yield from dropout_warnings(f"{section}.guidance_scale", scale, dropout)
        classes = tree["model.conditioning.num_classes"]
        if classes != "auto":  # auto: checked once they are counted, in run_images/classes.py
            yield from label_share_warnings(f"{section}.num_samples", tree[f"{section}.num_samples"], classes)


def guidance_warnings(key: str, scale: float | Sequence[float], typed: bool = False) -> Iterator[str]:
    """Warn about guidance of an unconditional model, which has no effect.

    Args:
        key: Key of the scale, one of DEFAULT_SCALES.
        scale: Its value.
        typed: Whether the value was set explicitly, so that a default value is warned about as well.
    """
    if asks_for_guidance(scale) and (typed or scale not in DEFAULT_SCALES[key]):
        yield f"{key} = {_shown(scale)} has no effect: the model is unconditional"


def dropout_warnings(key: str, scale: float | Sequence[float], class_dropout_prob: float) -> Iterator[str]:
    """Warn about guidance, ``key = scale``, of a model that was trained without label dropout."""
    if class_dropout_prob == 0 and asks_for_guidance(scale):
        yield (
            f"{key} = {_shown(scale)} weighs the label against an unconditional estimate, which is never trained with "
            "model.conditioning.class_dropout_prob = 0: train with about 0.1, or set the scale to 1"
        )


def remaining_signal_warnings(alpha: float, sigma: float) -> Iterator[str]:
    """Warn if the last noise level leaves some of the image, since sampling starts from pure noise."""
    if alpha > MAX_SIGNAL_LEFT * sigma:
        yield (
            f"the noise process ends with alpha = {alpha:.2g} of the image left (alpha_bar = {alpha**2:.2g}), but "
            "sampling starts from pure noise"
        )


def asks_for_guidance(scale: float | Sequence[float]) -> bool:
    """Return whether a guidance scale, or one of several, is not that of the plain conditional model, 0 or 1."""
    return any(each not in (0, 1) for each in (scale if isinstance(scale, Sequence) else (scale,)))


def _shown(scale: float | Sequence[float]) -> str:
    return f"[{', '.join(f'{each:g}' for each in scale)}]" if isinstance(scale, Sequence) else f"{scale:g}"


def label_share_warnings(key: str, num_samples: int, labels: int) -> Iterator[str]:
    """Warn if the images, ``key = num_samples``, do not divide evenly among ``labels`` classes."""
    rest = num_samples % labels
    if num_samples < labels:
        yield f"{key} = {num_samples} leaves {labels - num_samples} of {labels} classes without an image"
    elif rest:
        more = "the first class has" if rest == 1 else f"the first {rest} classes have"
        even = f"{num_samples - rest} or {num_samples - rest + labels} are even"
        yield f"{key} = {num_samples} does not divide evenly among {labels} classes: {more} one more image ({even})"


def label_round_warnings(key: str, num_samples: int, labels: int, scales: int) -> Iterator[str]:
    """Warn if the images, ``key = num_samples``, leave some of the guidance scales, one per round, without any."""
    rounds = -(-num_samples // labels)
    if rounds < scales:
        yield (
            f"{key} = {num_samples} leaves {scales - rounds} of {scales} guidance scales without an image: each takes "
            f"a round of {labels} labels"
        )
