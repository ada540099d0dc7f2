"""Denoiser: network, noise process and parameterization as one map from noisy to clean images."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from diffusion_lab.diffusion.level import Level
from diffusion_lab.diffusion.parameterization import Coefficients, Parameterization
from diffusion_lab.diffusion.schedules import Schedule
from diffusion_lab.runtime.precision import computing_in
from diffusion_lab.shapes import Images, Labels, per_image


class Denoiser(nn.Module):
    """Estimate of clean images from noisy ones, the only interface of loss, guidance, samplers and metrics.

    Args:
        network: Maps ``(images, times, labels)`` to images of the same shape.
        schedule: The noise process.
        parameterization: Meaning of the network output.
        image_shape: ``(C, H, W)`` of one image.
        num_classes: Number of classes, or None for an unconditional model. The label ``num_classes`` itself stands
            for "no label".
        class_names: A name for each class, or nothing.

    Attributes:
        compute_dtype: Floating-point type the network computes in; the output is float32 in any case.
        label_dropout: Probability of dropping labels in training; None where unknown.
        weights: ``"ema"`` for averaged weights, ``"raw"`` for the trained ones; None for a model that comes neither
            from a checkpoint nor from an EMA.
    """

    def __init__(
        self,
        network: nn.Module,
        schedule: Schedule,
        parameterization: Parameterization,
        image_shape: tuple[int, int, int],
        num_classes: int | None = None,
        class_names: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        self.network = network
        self.schedule = schedule
        self.parameterization = parameterization
        self.image_shape = image_shape
        self.num_classes = num_classes
        self.class_names = class_names
        self.compute_dtype = torch.float32
        self.label_dropout: float | None = None
        self.weights: Literal["raw", "ema"] | None = None

    def forward(self, noisy: Images, level: Level[Any], label: Labels | None = None) -> Images:
        """Estimate the clean images.

        Args:
            noisy: Images ``(N, C, H, W)`` at ``level``.
            level: One level for all images (floats) or one for each (tensors ``(N,)``), ``sigma > 0``.
            label: Class numbers ``(N,)``; None where no label is known.

        Returns:
            Images ``(N, C, H, W)``, float32, not clipped.
        """
        c = self.parameterization.coefficients(level)
        output = self._output(noisy, level, label, c).float()
        clean: Images = per_image(c.c_skip, noisy) * noisy + per_image(c.c_out, noisy) * output
        return clean

    def predict(self, noisy: Images, level: Level[Any], label: Labels | None = None) -> Images:
        """Return the raw network output ``(N, C, H, W)``; arguments as for ``forward``."""
        return self._output(noisy, level, label, self.parameterization.coefficients(level))

    def _output(self, noisy: Images, level: Level[Any], label: Labels | None, c: Coefficients[Any]) -> Images:
        time = torch.as_tensor(level.time, dtype=torch.float32, device=noisy.device).reshape(-1)
        with computing_in(self.compute_dtype, noisy.device):
            output: Tensor = self.network(per_image(c.c_in, noisy) * noisy, time, self._known_or_hidden(noisy, label))
        return output

    def _known_or_hidden(self, noisy: Images, label: Labels | None) -> Labels | None:
        if self.num_classes is None:
            if label is not None:
                raise ValueError("labels were given, but the model is unconditional: leave them out")
            return None
        if label is None:
            return torch.full((len(noisy),), self.num_classes, device=noisy.device)
        return label
