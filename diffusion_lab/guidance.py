"""Guidance: a denoiser made of denoisers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_lab.denoiser import Denoiser
from diffusion_lab.diffusion.level import Level
from diffusion_lab.shapes import Images, Labels, per_image

LabelledDenoise = Callable[[Images, Level[float], Labels | None], Images]
"""What guidance wraps and what it makes: ``(noisy, level, label)`` to clean images."""


@dataclass(frozen=True)
class Guidance:
    """Where guidance is applied, and what keeps it from overdoing it; how strong it is says its scale.

    Args:
        interval: Noise levels that are guided, ``low < sigma / alpha <= high``; elsewhere it is the plain conditional
            model, in half the time (arXiv:2404.07724, equation 6). None guides at all levels.
        rescale: Share in [0, 1] by which each image's standard deviation is pulled back to that of the conditional
            estimate (arXiv:2305.08891, section 3.4).
    """

    interval: tuple[float, float] | None = None
    rescale: float = 0.0

    def __post_init__(self) -> None:
        if self.interval is not None and not 0 <= self.interval[0] < self.interval[1]:
            raise ValueError(
                f"guidance.interval must be two numbers, 0 ≤ low < high, or null, got {list(self.interval)}"
            )
        if not 0 <= self.rescale <= 1:
            raise ValueError(f"guidance.rescale must lie in [0, 1], got {self.rescale}")

    def applies_at(self, level: Level[float]) -> bool:
        """Whether images of this noise level are guided."""
        if self.interval is None:
            return True
        low, high = self.interval
        return low * level.alpha < level.sigma <= high * level.alpha  # no division: alpha may be 0


PLAIN = Guidance()
"""At all noise levels, and nothing pulled back."""


def guided(
    denoiser: Denoiser, scale: float | Sequence[float] | Tensor | None, guidance: Guidance = PLAIN
) -> LabelledDenoise:
    """Weigh the label by ``scale`` (classifier-free guidance, arXiv:2207.12598, equation 6).

    The estimate is ``uncond + scale · (cond − uncond)``: above 1 the label is strengthened, between 0 and 1 weakened.
    1 is the plain conditional model. So are 0 and None, which switch guidance off; an unconditional model has none.

    Args:
        denoiser: The model.
        scale: One number ≥ 0 or None, or one number for each image ``(N,)``.
        guidance: At which noise levels, and how tamed.

    Raises:
        ValueError: A scale is negative, infinite or not a number.
    """
    scales = guidance_scales(scale)
    if denoiser.num_classes is None or not bool(_guided(scales).any()):
        return denoiser
    return ClassifierFreeGuidance(denoiser, scales, guidance)


def guidance_scales(scale: float | Sequence[float] | Tensor | None) -> Tensor:
    """Guidance scales in float32, of the shape that they are given in; None is 0, guidance switched off.

    Raises:
        ValueError: One of them is negative, infinite or not a number.
    """
    scales = torch.as_tensor(0.0 if scale is None else scale, dtype=torch.float32)
    if not bool((scales.isfinite() & (scales >= 0)).all()):
        raise ValueError(
            f"guidance_scale must be a finite number ≥ 0 (0 or None for no guidance), got {scales.tolist()}"
        )
    return scales


def _guided(scales: Tensor) -> Tensor:
    """Which scales ask for more than the plain conditional model."""
    return (scales != 0) & (scales != 1)


class ClassifierFreeGuidance:
    """All conditional estimates, and the unconditional ones of the images to be guided, from one batched forward pass.

    Where the scale of an image is 0 or 1, its estimate is the conditional one, untouched.
    """

    def __init__(self, denoiser: Denoiser, scale: Tensor, guidance: Guidance = PLAIN) -> None:
        self.denoiser = denoiser
        self.scale = scale.cpu()  # which images are guided must be known here: on a GPU each step would wait for it
        self.guidance = guidance

    def __call__(self, noisy: Images, level: Level[float], label: Labels | None) -> Images:
        if self.scale.shape not in ((), (len(noisy),)):
            raise ValueError(f"guidance needs one scale, or one for each of {len(noisy)} images, got {len(self.scale)}")
        if label is None or not self.guidance.applies_at(level):
            unguided: Images = self.denoiser(noisy, level, label)
            return unguided
        scale = self.scale.expand(len(noisy))
        wanted = _guided(scale)
        chosen = wanted.nonzero().flatten().to(noisy.device)
        no_label = torch.full_like(label[chosen], self.denoiser.num_classes or 0)
        both = self.denoiser(torch.cat([noisy, noisy[chosen]]), level, torch.cat([label, no_label]))
        clean, unconditional = both[: len(noisy)], both[len(noisy) :]
        conditional: Images = clean[chosen]
        estimate = torch.lerp(unconditional, conditional, per_image(scale[wanted], noisy))
        if self.guidance.rescale:
            estimate = _rescaled(estimate, conditional, self.guidance.rescale)
        guided_images: Images = clean.index_copy(0, chosen, estimate)
        return guided_images


def _rescaled(estimate: Images, model: Images, share: float) -> Images:
    """Pull the standard deviation of each image towards that of its model (arXiv:2305.08891, equations 15 and 16).

    The paper applies it to what the network predicts. On the clean estimate it means the same contrast for all that a
    network may predict: the noise in a noise prediction would outweigh the image that is to be kept from overexposure.
    """
    spread, usual = estimate.flatten(1).std(dim=1), model.flatten(1).std(dim=1)
    factor = torch.where(spread > 0, usual / spread, 1)  # an image of one colour has no contrast to lose
    return per_image(1 + share * (factor - 1), estimate) * estimate
