"""Classifier-free guidance: a denoiser composed of denoisers."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float32
from torch import Tensor

from diffusion_lab.arguments import is_number
from diffusion_lab.denoiser import Denoiser
from diffusion_lab.diffusion.level import Level
from diffusion_lab.shapes import Images, Labels, per_image

LabelledDenoise = Callable[[Images, Level[float], Labels | None], Images]
"""Function that guidance wraps and returns: ``(noisy, level, label)`` to clean images."""


@dataclass(frozen=True)
class Guidance:
    """Options of guidance besides its scale.

    Args:
        interval: Noise levels with guidance, ``low < sigma / alpha <= high``; elsewhere the plain conditional model is
            used, in half the time (arXiv:2404.07724, equation 6). None guides at all levels.
        rescale: Share in [0, 1] by which each image's standard deviation is pulled back to that of the conditional
            estimate (arXiv:2305.08891, section 3.4).
    """

    interval: tuple[float, float] | None = None
    rescale: float = 0.0

    def __post_init__(self) -> None:
        if self.interval is not None and not _is_interval(self.interval):
            raise ValueError(f"interval must be two numbers, 0 ≤ low < high, or None, got {self.interval!r}")
        if not is_number(self.rescale) or not 0 <= self.rescale <= 1:
            raise ValueError(f"rescale must lie in [0, 1], got {self.rescale!r}")

    def applies_at(self, level: Level[float]) -> bool:
        """Return whether guidance applies at this noise level."""
        if self.interval is None:
            return True
        low, high = self.interval
        return low * level.alpha < level.sigma <= high * level.alpha  # no division: alpha may be 0


def _is_interval(value: object) -> bool:
    if not isinstance(value, Sequence) or len(value) != 2 or not all(map(is_number, value)):
        return False
    low, high = value
    return bool(0 <= low < high)


PLAIN = Guidance()
"""Guidance at all noise levels, without rescaling."""


def guided(
    denoiser: Denoiser, scale: float | Sequence[float] | Tensor | None, guidance: Guidance = PLAIN
) -> LabelledDenoise:
    """Apply classifier-free guidance with ``scale`` to a denoiser (arXiv:2207.12598, equation 6).

    The estimate is ``uncond + scale · (cond − uncond)``: a scale above 1 strengthens the label, between 0 and 1 weakens
    it. 1 is the plain conditional model, as are 0 and None, which switch guidance off; an unconditional model has none.

    Args:
        denoiser: The model.
        scale: One number ≥ 0 or None, or one number per image ``(N,)``.
        guidance: Noise levels with guidance, and rescaling.

    Raises:
        ValueError: A scale is negative, infinite or not a number.
    """
    scales = guidance_scales(scale)
    if denoiser.num_classes is None or not bool(_needs_guidance(scales).any()):
        return denoiser
    return ClassifierFreeGuidance(denoiser, scales, guidance)


def guidance_scales(scale: float | Sequence[float] | Tensor | None) -> Float32[Tensor, "*shape"]:
    """Return guidance scales in float32, of unchanged shape; None is 0, guidance switched off.

    Raises:
        ValueError: One of them is negative, infinite or not a number.
    """
    try:
        scales = torch.as_tensor(0.0 if scale is None else scale, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"guidance_scale must be a number ≥ 0, one for each image, or None, got {reprlib.repr(scale)}"
        ) from error
    if not bool((scales.isfinite() & (scales >= 0)).all()):
        raise ValueError(
            f"guidance_scale must be a finite number ≥ 0 (0 or None for no guidance), got {scales.tolist()}"
        )
    return scales


def _needs_guidance(scales: Tensor) -> Tensor:
    """Return which scales differ from the plain conditional model."""
    return (scales != 0) & (scales != 1)


class ClassifierFreeGuidance:
    """Conditional estimates, and unconditional ones for the guided images, in one batched forward pass.

    If the scale of an image is 0 or 1, its estimate is the unchanged conditional one.
    """

    def __init__(self, denoiser: Denoiser, scale: Tensor, guidance: Guidance = PLAIN) -> None:
        self.denoiser = denoiser
        self.scale = scale.cpu()  # selecting the guided images must not synchronize a GPU in each step
        self.guidance = guidance

    def __call__(self, noisy: Images, level: Level[float], label: Labels | None) -> Images:
        if self.scale.shape not in ((), (len(noisy),)):
            raise ValueError(f"guidance needs one scale, or one for each of {len(noisy)} images, got {len(self.scale)}")
        if label is None or not self.guidance.applies_at(level):
            unguided: Images = self.denoiser(noisy, level, label)
            return unguided
        scale = self.scale.expand(len(noisy))
        is_guided = _needs_guidance(scale)
        chosen = is_guided.nonzero().flatten().to(noisy.device)
        no_label = torch.full_like(label[chosen], self.denoiser.num_classes or 0)
        both = self.denoiser(torch.cat([noisy, noisy[chosen]]), level, torch.cat([label, no_label]))
        clean, unconditional = both[: len(noisy)], both[len(noisy) :]
        conditional: Images = clean[chosen]
        estimate = torch.lerp(unconditional, conditional, per_image(scale[is_guided], conditional))
        if self.guidance.rescale:
            estimate = _rescale(estimate, conditional, self.guidance.rescale)
        guided_images: Images = clean.index_copy(0, chosen, estimate)
        return guided_images


def _rescale(estimate: Images, conditional: Images, share: float) -> Images:
    """Pull the standard deviation of each image towards that of the conditional estimate (arXiv:2305.08891, eq. 15-16).

    The paper applies it to the network's prediction. Applied to the clean estimate, it preserves contrast for every
    kind of prediction: in a noise prediction, the noise would outweigh the image to be kept from overexposure.
    """
    spread, target = estimate.flatten(1).std(dim=1), conditional.flatten(1).std(dim=1)
    factor = torch.where(spread > 0, target / spread, 1)  # an image of one colour has no contrast to lose
    return per_image(1 + share * (factor - 1), estimate) * estimate
