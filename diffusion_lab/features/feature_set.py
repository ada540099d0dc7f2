"""The features of a set of images, with what is known of the set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """Features of images in their order.

    Attributes:
        values: float32 ``(N, D)`` on the CPU.
        logits: float32 ``(N, K)`` of a classifier; None where the extractor is none.
        labels: Class numbers int64 ``(N,)``; None for images without classes.
        class_names: Names of the classes by their numbers; none for images without classes.
        extractor: Label of the extractor, such as ``efflite0@96``.
        extractor_fingerprint: SHA-256 of its weights and of how it prepares images.
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
        """Return the features of the images of these numbers, in this order; the fingerprint remains that of all."""
        chosen = torch.as_tensor(indices, dtype=None if isinstance(indices, Tensor) else torch.int64)
        return replace(
            self,
            values=self.values[chosen],
            logits=None if self.logits is None else self.logits[chosen],
            labels=None if self.labels is None else self.labels[chosen],
        )
