"""Custom feature extractors as users write them."""

from __future__ import annotations

import hashlib

import torch

from diffusion_lab.features import Extracted, FeatureExtractor


class Brightness(FeatureExtractor):
    """Mean of each image; ``weights`` is only recorded."""

    name = "brightness"
    num_features = 1

    def __init__(self, weights=None):
        self.weights = weights

    @property
    def fingerprint(self):
        return hashlib.sha256(b"mean").hexdigest()

    def __call__(self, pixels):
        return Extracted(pixels.float().mean((1, 2, 3))[:, None])


class WithoutName(FeatureExtractor):
    num_features = 1
    fingerprint = ""

    def __call__(self, pixels):
        return Extracted(torch.zeros(len(pixels), 1))


class WithNaN(Brightness):
    def __call__(self, pixels):
        return Extracted(super().__call__(pixels).values / 0 * 0)


class WithMore(Brightness):
    def __call__(self, pixels):
        return Extracted(torch.zeros(len(pixels), 2))


class NoExtractor:
    pass


class CalledInception(Brightness):
    name = "inception"


class LabelledInception(Brightness):
    label = "inception@299"


class WithNotes(Brightness):
    notes = ("Only the brightness is measured.",)
