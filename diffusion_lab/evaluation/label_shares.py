"""The labels of generated images in the shares that classes have among real ones."""

from __future__ import annotations

import numpy as np

from diffusion_lab.data.source import ImageSource

LONGEST = 200_000
"""Labels until they repeat, at most: the note in an unfinished folder holds all of them."""


def labels_in_shares(real: ImageSource, num_classes: int) -> tuple[int, ...] | None:
    """Return labels in turn, of which any number from the first on have nearly the shares of the real images.

    A model draws p(image) as the mean of p(image | class) weighted by p(class): with equal shares of classes that are
    not equally frequent, even perfect images would be as far from the real ones as the shares are.

    Args:
        real: Images whose classes are numbered as those of the model.
        num_classes: Of the model.

    Returns:
        As few as have exactly the shares of the real images, however rare a class is, so that they may repeat; of more
        than ``LONGEST`` that many, in which no class is a whole image too frequent. None where the real images have no
        classes, or others than the model, or equally many of each.
    """
    if len(real.class_names) != num_classes:
        return None
    counts = np.bincount(real.labels, minlength=num_classes)
    if np.all(counts == counts[0]):
        return None
    shares = counts / counts.sum()
    given = np.zeros(num_classes)
    labels = []
    for place in range(1, min(int(counts.sum() // np.gcd.reduce(counts)), LONGEST) + 1):
        chosen = int(np.argmax(shares * place - given))  # the class that lacks most
        given[chosen] += 1
        labels.append(chosen)
    return tuple(labels)
