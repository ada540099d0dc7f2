"""Warnings about guidance and the number of images, for sample images during training and for generation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

# An unconditional model ignores guidance, as the format says, and its default tree is unconditional with a scale of 3.
# A scale that is only a default is therefore no mistake and gives no warning: 3 in the default tree, 2 in the groups of
# `conf/`. Any other value was typed by someone who expects an effect.
DEFAULT_SCALES: dict[str, tuple[float, ...]] = {
    "training.visualization.guidance_scale": (2.0, 3.0),
    "evaluation.guidance_scale": (),
    "generation.sampling.guidance_scale": (2.0,),  # the default of sample.py; a file with 3 was written for generation
}


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
