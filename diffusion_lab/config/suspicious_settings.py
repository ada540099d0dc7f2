"""What is allowed and yet unlikely to be meant: one line each, as far as the settings alone can tell.

What only the images can tell is in ``training/suspicious_settings.py``; what only a checkpoint can tell, in ``generate.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from diffusion_lab.config.evaluated_metrics import is_evaluated, watched_direction
from diffusion_lab.config.settings_reader import SettingsReader

USUAL_CLIP_NORMS = (0.01, 100.0)

MOST_SIGNAL_LEFT = 0.1
"""Of the image beside the noise, ``alpha / sigma``, at the end of a noise process."""

# An unconditional model ignores guidance, as the format says, and its default tree is unconditional with a scale of 3.
# A scale that merely stands where nobody touched it is therefore no mistake and gives no warning: 3 in the default
# tree, 2 in the groups of `conf/`. Any other was typed by someone who expects something of it.
UNTOUCHED_SCALES: dict[str, tuple[float, ...]] = {
    "training.visualization.guidance_scale": (2.0, 3.0),
    "evaluation.guidance_scale": (),
    "generation.sampling.guidance_scale": (2.0,),  # sample.py's own; a file with 3 in it was written to generate
}


def suspicious_settings(tree: SettingsReader) -> Iterator[str]:
    """The doubts about a sound tree. In mode generate the checkpoint decides, so here there are none."""
    if tree["mode"] != "train":
        return
    clip = tree["training.optimizer.gradient_clip_norm"]
    low, high = USUAL_CLIP_NORMS
    if clip is not None and not low <= clip <= high:
        effect = "nearly stops learning" if clip < low else "hardly ever clips"
        usual = f"usual values lie between {low} and {high:g}"
        yield f"training.optimizer.gradient_clip_norm = {clip:g} {effect}; {usual}"
    yield from _doubts_about_the_curve(tree)
    if tree["training.optimizer.maximize"]:
        yield "training.optimizer.maximize = true makes the loss as large as it can be, which unlearns the images"
    mode, better = tree["training.scheduler.mode"], watched_direction(tree.section("training.validation"))
    if tree["training.scheduler.type"] == "plateau" and mode not in (None, better):
        yield (
            f"training.scheduler.mode = {mode} differs from training.validation.mode = {better}: the learning rate "
            "drops when training.validation.metric stops going one way, and the best checkpoint is at the other end"
        )
    if tree["training.visualization.enabled"]:
        yield from _doubts_about_pictures(tree)
    if tree["evaluation.enabled"]:
        yield from _doubts_about_evaluation(tree)


def _doubts_about_evaluation(tree: SettingsReader) -> Iterator[str]:
    key, every, epochs = "evaluation.guidance_scale", tree["evaluation.every"], tree["training.epochs"]
    if tree["model.conditioning.type"] is None:
        yield from guidance_warnings(key, tree[key])
    else:
        yield from dropout_warnings(key, tree[key], tree["model.conditioning.class_dropout_prob"])
    metric = tree["training.validation.metric"]
    if is_evaluated(metric) and every != "auto" and every >= epochs > 1:
        yield (
            f"evaluation.every = {every} lets {metric} be known once, after the last of {epochs} epochs, whose "
            "checkpoint is then the best: a smaller number lets training.validation.metric choose"
        )


def _doubts_about_the_curve(tree: SettingsReader) -> Iterator[str]:
    if tree["training.scheduler.type"] != "cosine" or tree["training.scheduler.last_epoch"] in (None, -1):
        return
    epochs, done = tree["training.epochs"], tree["training.scheduler.last_epoch"]
    down = epochs if tree["training.scheduler.T_max"] == "auto" else tree["training.scheduler.T_max"]
    if done + epochs > down:
        yield (
            f"training.scheduler.last_epoch = {done} lets the run end in epoch {done + epochs} of a cosine that is "
            f"down in epoch {down} and rises after it; training.scheduler.T_max={done + 1 + epochs} ends with the run"
        )


def _doubts_about_pictures(tree: SettingsReader) -> Iterator[str]:
    section = "training.visualization"
    if tree["model.conditioning.type"] is None:
        yield from guidance_warnings(f"{section}.guidance_scale", tree[f"{section}.guidance_scale"])
    else:
        scale, dropout = tree[f"{section}.guidance_scale"], tree["model.conditioning.class_dropout_prob"]
        yield from dropout_warnings(f"{section}.guidance_scale", scale, dropout)
        classes = tree["model.conditioning.num_classes"]
        if classes != "auto":  # else they are counted later, in run_images/classes.py
            yield from label_share_warnings(f"{section}.num_samples", tree[f"{section}.num_samples"], classes)


def guidance_warnings(key: str, scale: float | Sequence[float], typed: bool = False) -> Iterator[str]:
    """Of an unconditional model: ``scale`` is the value of ``key``, one of UNTOUCHED_SCALES.

    A default that merely stands in a file is no doubt; the same value that somebody ``typed`` is one.
    """
    if asks_for_guidance(scale) and (typed or scale not in UNTOUCHED_SCALES[key]):
        yield f"{key} = {_shown(scale)} has no effect: the model is unconditional"


def dropout_warnings(key: str, scale: float | Sequence[float], class_dropout_prob: float) -> Iterator[str]:
    """Of a model with classes: ``scale`` is the value of ``key``."""
    if class_dropout_prob == 0 and asks_for_guidance(scale):
        yield (
            f"{key} = {_shown(scale)} weighs the label against an unconditional estimate, which is never trained with "
            "model.conditioning.class_dropout_prob = 0: train with 0.1 or so, or set the scale to 1"
        )


def remaining_signal_warnings(alpha: float, sigma: float) -> Iterator[str]:
    """Of the last level of a noise process: whether sampling, which begins with noise alone, begins there."""
    if alpha > MOST_SIGNAL_LEFT * sigma:
        yield (
            f"the noise process ends with alpha = {alpha:.2g} of the image left (alpha_bar = {alpha**2:.2g}), but "
            "sampling begins with noise alone"
        )


def asks_for_guidance(scale: float | Sequence[float]) -> bool:
    """Whether a guidance scale, or one of several, is other than the plain conditional model's, 0 and 1."""
    return any(each not in (0, 1) for each in (scale if isinstance(scale, Sequence) else (scale,)))


def _shown(scale: float | Sequence[float]) -> str:
    return f"[{', '.join(f'{each:g}' for each in scale)}]" if isinstance(scale, Sequence) else f"{scale:g}"


def label_share_warnings(key: str, num_samples: int, labels: int) -> Iterator[str]:
    """Of images that are made for ``labels`` classes in turn: ``num_samples`` is the value of ``key``."""
    rest = num_samples % labels
    if num_samples < labels:
        yield f"{key} = {num_samples} leaves {labels - num_samples} of {labels} classes without an image"
    elif rest:
        more = "the first class has" if rest == 1 else f"the first {rest} classes have"
        even = f"{num_samples - rest} or {num_samples - rest + labels} are even"
        yield f"{key} = {num_samples} does not divide evenly among {labels} classes: {more} one image more ({even})"


def label_round_warnings(key: str, num_samples: int, labels: int, scales: int) -> Iterator[str]:
    """Of images of ``labels`` in turn, a guidance scale a round: ``num_samples`` is the value of ``key``."""
    rounds = -(-num_samples // labels)
    if rounds < scales:
        yield (
            f"{key} = {num_samples} leaves {scales - rounds} of {scales} guidance scales without an image: each takes "
            f"a round of {labels} labels"
        )
