"""Guidance: a denoiser made of denoisers."""

from __future__ import annotations

from collections.abc import Callable

import torch

from diffusion_lab.denoiser import Denoiser
from diffusion_lab.diffusion.level import Level
from diffusion_lab.shapes import Images, Labels

LabelledDenoise = Callable[[Images, Level[float], Labels | None], Images]
"""What guidance wraps and what it makes: ``(noisy, level, label)`` to clean images."""


def guided(denoiser: Denoiser, scale: float) -> LabelledDenoise:
    """Strengthen the label by ``scale`` (classifier-free guidance, arXiv:2207.12598, equation 6).

    ``scale`` weighs the conditional estimate against the unconditional one, ``uncond + scale · (cond − uncond)``: 1 is
    the plain conditional model, and anything up to 1, like an unconditional model, leaves the denoiser as it is.
    """
    if scale <= 1 or denoiser.num_classes is None:
        return denoiser
    return ClassifierFreeGuidance(denoiser, scale)


class ClassifierFreeGuidance:
    """The conditional and the unconditional estimate from one batched forward pass."""

    def __init__(self, denoiser: Denoiser, scale: float) -> None:
        self.denoiser = denoiser
        self.scale = scale

    def __call__(self, noisy: Images, level: Level[float], label: Labels | None) -> Images:
        if label is None:  # nothing to strengthen
            unlabelled: Images = self.denoiser(noisy, level, None)
            return unlabelled
        no_label = torch.full_like(label, self.denoiser.num_classes or 0)
        both = self.denoiser(torch.cat([noisy, noisy]), level, torch.cat([label, no_label]))
        conditional, unconditional = both.chunk(2)
        return torch.lerp(unconditional, conditional, self.scale)
