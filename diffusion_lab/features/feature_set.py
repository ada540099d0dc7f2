"""Features of a set of images, with labels and fingerprints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """Features of images, in order.

    Attributes:
        values: float32 ``(N, D)`` on the CPU.
        logits: float32 ``(N, K)`` of a classifier; None if the extractor has none.
        labels: Class numbers int64 ``(N,)``; None for images without classes.
        class_names: Class names by class number; empty for images without classes.
        extractor: Label of the extractor, such as ``efflite0@96``.
        extractor_fingerprint: SHA-256 of its weights and preprocessing.
        data_fingerprint: SHA-256 of the images.
    """

    values: Tensor
    logits: Tensor | None
    labels: Tensor | None
    class_names: tuple[str, ...]
    extractor: str
    extractor_fingerprint: str
    data_fingerprint: str

    def __len__(self) -> int:
        return len(self.values)

    def subset(self, indices: Tensor | Sequence[int]) -> FeatureSet:
        """Return the features of the images at these indices, in order; the fingerprint remains that of the set."""
        selected = torch.as_tensor(indices, dtype=None if isinstance(indices, Tensor) else torch.int64)
        return replace(
            self,
            values=self.values[selected],
            logits=None if self.logits is None else self.logits[selected],
            labels=None if self.labels is None else self.labels[selected],
        )
