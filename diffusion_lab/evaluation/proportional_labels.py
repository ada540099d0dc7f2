"""Labels of generated images with the class frequencies of real images."""

from __future__ import annotations

import numpy as np

from diffusion_lab.data.source import ImageSource

MAX_PERIOD = 200_000
"""Maximum number of labels before they repeat: the note in an unfinished folder contains all of them."""


def proportional_labels(real: ImageSource, num_classes: int) -> tuple[int, ...] | None:
    """Return a sequence of labels every prefix of which has nearly the class frequencies of the real images.

    The distribution of real images is the mean of p(image | class) weighted by p(class): with equally many images of
    classes that are not equally frequent, even perfect samples would differ from it.

    Args:
        real: Images whose classes are numbered as those of the model.
        num_classes: Number of classes of the model.

    Returns:
        The shortest sequence with exactly the frequencies of the real images, however rare a class is, to be repeated;
        if it is longer than ``MAX_PERIOD``, its beginning, in which no class exceeds its frequency by a whole image.
        None if the real images have no classes, other classes than the model, or equally many of each.
    """
    if len(real.class_names) != num_classes:
        return None
    counts = np.bincount(real.labels, minlength=num_classes)
    if np.all(counts == counts[0]):
        return None
    shares = counts / counts.sum()
    used = np.zeros(num_classes)
    labels = []
    for length in range(1, min(int(counts.sum() // np.gcd.reduce(counts)), MAX_PERIOD) + 1):
        chosen = int(np.argmax(shares * length - used))  # the class with the largest deficit
        used[chosen] += 1
        labels.append(chosen)
    return tuple(labels)
