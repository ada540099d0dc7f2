"""Quality of generated digits, compared with real ones: label agreement and Fréchet distance in pixel space."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.svm import SVC

from diffusion_lab.data.digits import digits
from diffusion_lab.evaluation import metrics
from diffusion_lab.shapes import Labels, Pixels

Features = NDArray[np.float64]


class DigitEvaluator:
    """Evaluates 8×8 digits with a support-vector classifier fitted to the real training digits.

    ``real_accuracy`` is its accuracy on the real held-out digits: an upper bound to be expected for samples.
    """

    def __init__(self) -> None:
        train, held_out = digits(subset="train"), digits(subset="heldout")
        self._train = _features(train.images)
        self._held_out = _features(held_out.images)
        self._classifier = SVC(C=10, gamma="scale").fit(self._train, train.labels)
        self.real_accuracy = float(self._classifier.score(self._held_out, held_out.labels))

    def label_agreement(self, pixels: Pixels, labels: Labels) -> float:
        """Return the fraction of images ``(N, 1, 8, 8)`` that are classified as their label ``(N,)``."""
        return float(self._classifier.score(_features(pixels.cpu().numpy()), labels.cpu().numpy()))

    def pixel_fd_ratio(self, pixels: Pixels) -> float:
        """Return the Fréchet distance to the training digits in the 64 pixels, over that of the held-out digits.

        1 is as near as other real digits are; with fewer images, the distance is larger by its bias.
        """
        return frechet_distance(_features(pixels.cpu().numpy()), self._train) / frechet_distance(
            self._held_out, self._train
        )


def frechet_distance(first: Features, second: Features) -> float:
    """Return the squared Fréchet distance of two sets of features ``(N, D)`` (arXiv:1706.08500, equation 6)."""
    return metrics.frechet_distance(torch.from_numpy(first), torch.from_numpy(second))


def _features(images: NDArray[np.uint8]) -> Features:
    """Convert pixels 0 to 255 to the original 64 features 0 to 16 of the digits."""
    return images.reshape(len(images), -1).astype(np.float64) * (16 / 255)
