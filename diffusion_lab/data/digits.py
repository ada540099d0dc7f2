"""Handwritten digits without download: scikit-learn's set of 1,797 images of 8×8 pixels."""

from __future__ import annotations

from typing import Literal

import numpy as np

from diffusion_lab.data.pixels import convert_arrays
from diffusion_lab.data.source import ArraySource
from diffusion_lab.data.split import balanced_split

HELD_OUT = 0.2


def digits(image_size: int = 8, channels: int = 1, subset: Literal["train", "heldout", "all"] = "train") -> ArraySource:
    """Return the digits 0 to 9 (E. Alpaydin and C. Kaynak, UCI, 1998), gray values 0 to 16 scaled to 0 to 255.

    A fifth of each class is held out, always the same images, so that evaluations have digits that no training run
    has seen: ``train`` and ``heldout`` are disjoint, ``all`` is both in the original order.
    """
    # scikit-learn is slow to import, and only this data set needs it
    from sklearn.datasets import load_digits

    dataset = load_digits()
    labels = dataset.target.astype(np.int64)
    train, heldout = balanced_split(labels, HELD_OUT, seed=0)
    chosen = {"train": train, "heldout": heldout, "all": np.arange(len(labels))}[subset]
    gray = np.rint(dataset.images[chosen] * (255 / 16)).astype(np.uint8)
    images = convert_arrays(gray, image_size, channels, background=(0, 0, 0))
    return ArraySource(images, labels[chosen], tuple("0123456789"))
