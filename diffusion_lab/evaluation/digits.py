"""How good generated digits are, measured with real ones: are they the digit asked for, and are they spread alike."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.svm import SVC

from diffusion_lab.data.digits import digits
from diffusion_lab.evaluation import metrics
from diffusion_lab.shapes import Labels, Pixels

Features = NDArray[np.float64]


class DigitJudge:
    """Judges 8×8 digits by a support-vector classifier that knows the real training digits alone.

    ``real_accuracy`` is its share of right answers on the real held-out digits: what the best samples could reach.
    """

    def __init__(self) -> None:
        train, held_out = digits(subset="train"), digits(subset="heldout")
        self._train = _features(train.images)
        self._held_out = _features(held_out.images)
        self._classifier = SVC(C=10, gamma="scale").fit(self._train, train.labels)
        self.real_accuracy = float(self._classifier.score(self._held_out, held_out.labels))

    def label_agreement(self, pixels: Pixels, labels: Labels) -> float:
        """Share of the images ``(N, 1, 8, 8)`` that the classifier takes for the digit asked for ``(N,)``."""
        return float(self._classifier.score(_features(pixels.cpu().numpy()), labels.cpu().numpy()))

    def pixel_fd_ratio(self, pixels: Pixels) -> float:
        """Fréchet distance in the 64 pixels to the training digits, over that of the held-out digits to them.

        1 is as near as other real digits are; with fewer images the distance grows by its bias alone.
        """
        return frechet_distance(_features(pixels.cpu().numpy()), self._train) / frechet_distance(
            self._held_out, self._train
        )


def frechet_distance(first: Features, second: Features) -> float:
    """Squared Fréchet distance of the Gaussians fitted to two sets of features ``(N, D)`` (arXiv:1706.08500, eq. 6)."""
    return metrics.frechet_distance(torch.from_numpy(first), torch.from_numpy(second))


def _features(images: NDArray[np.uint8]) -> Features:
    """Pixels 0 to 255 as the 64 numbers 0 to 16 that the digits came in."""
    return images.reshape(len(images), -1).astype(np.float64) * (16 / 255)
