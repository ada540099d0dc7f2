"""Classes of a model by number or by name."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence

import torch
from torch import Tensor

from diffusion_lab.console.terminal import on_one_line
from diffusion_lab.denoiser import Denoiser
from diffusion_lab.faults import closest
from diffusion_lab.shapes import Labels


def check_labels(denoiser: Denoiser, num_samples: int, labels: Sequence[int | str] | Tensor | None) -> Labels | None:
    """Return the class number of each image ``(N,)``, int64 on the CPU; None for images without labels.

    Args:
        denoiser: The model.
        num_samples: Number of images.
        labels: Class numbers, or names from ``denoiser.class_names``.

    Raises:
        ValueError: Naming the argument ``class_labels``: a label is not a class of the model, there is not one for each
            image, or the model is unconditional.
    """
    if labels is None:
        return None
    if denoiser.num_classes is None:
        raise ValueError("class_labels were given, but the model is unconditional: leave them out")
    if isinstance(labels, str):
        raise ValueError(
            f"class_labels must hold one label for each of the {num_samples} images, got the string {labels!r}: "
            f"[{labels!r}] * {num_samples} gives all of them this label"
        )
    numbers = _as_tensor(labels if isinstance(labels, Tensor) else _replace_names(denoiser, labels))
    if numbers.shape != (num_samples,):
        got = numbers.numel() if numbers.ndim == 1 else f"an array of shape {tuple(numbers.shape)}"
        raise ValueError(f"class_labels must hold one label for each of the {num_samples} images, got {got}")
    if numbers.is_floating_point() or numbers.is_complex() or numbers.dtype == torch.bool:
        raise ValueError(f"class_labels must be class numbers or names, got {reprlib.repr(numbers.tolist())}")
    numbers = numbers.to("cpu", torch.int64)
    outside = sorted({int(value) for value in numbers if not 0 <= value < denoiser.num_classes})
    if outside:
        raise ValueError(f"class_labels must lie in 0 to {denoiser.num_classes - 1}, got {reprlib.repr(outside)}")
    return numbers


def _as_tensor(labels: object) -> Tensor:
    try:
        return torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ValueError(f"class_labels must be class numbers or names, got {reprlib.repr(labels)}") from error


def _replace_names(denoiser: Denoiser, labels: Sequence[int | str]) -> Sequence[int | str]:
    """Return labels with the names of classes replaced by their numbers."""
    if not isinstance(labels, Sequence) or not any(isinstance(label, str) for label in labels):
        return labels
    names = denoiser.class_names
    if not names:
        raise ValueError(
            f"class_labels must be class numbers, since the model has no class names, got {reprlib.repr(list(labels))}"
        )
    numbers: dict[int | str, int] = {name: number for number, name in reversed(list(enumerate(names)))}
    unknown = next((label for label in labels if isinstance(label, str) and label not in numbers), None)
    if unknown is not None:
        suggestion = closest(unknown, names)
        hint = f" (did you mean {suggestion!r}?)" if suggestion else ""
        known = on_one_line(", ".join(names))
        raise ValueError(f"class_labels must be classes of the model ({known}), got {unknown!r}{hint}")
    return [numbers[label] if isinstance(label, str) else label for label in labels]
