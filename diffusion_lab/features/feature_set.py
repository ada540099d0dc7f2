"""The features of a set of images."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """Features of N images, with what the images are and how the features were made.

    Args:
        values: ``(N, D)``, float32, on the CPU.
        logits: ``(N, K)`` of the network's classifier; None where it has none.
        labels: Class numbers ``(N,)``, int64; None for unlabelled images.
        class_names: One for each class; empty for unlabelled images.
        extractor: Label of the extractor: ``efflite0@96``.
        extractor_fingerprint: SHA-256 of its weights and of how images are prepared.
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

    def subset(self, indices: Tensor) -> FeatureSet:
        """Return the images of these numbers ``(M,)``, in this order; the fingerprint remains that of the whole."""
        return replace(
            self,
            values=self.values[indices],
            logits=None if self.logits is None else self.logits[indices],
            labels=None if self.labels is None else self.labels[indices],
        )
