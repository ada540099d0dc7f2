"""Metrics of changed real images with the shipped feature extractors."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from diffusion_lab.data.digits import digits
from diffusion_lab.data.emoji import emoji
from diffusion_lab.data.source import ArraySource, Subset
from diffusion_lab.evaluation.measure import measure
from diffusion_lab.evaluation.metrics import kernel_distance
from diffusion_lab.evaluation.real_images import RealImages
from diffusion_lab.features import create_extractor, extract


def blurred(images, sigma):
    return gaussian_filter(images.astype(np.float32), (0, 0, sigma, sigma)).round().clip(0, 255).astype(np.uint8)


def noisy(images, amount):
    noise = np.random.default_rng(0).normal(scale=amount, size=images.shape)
    return (images + noise).round().clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def handwritten():
    """Function that measures digits on pixel features against training digits; its default images; the reference."""
    train, held_out = digits(subset="train"), digits(subset="heldout")
    extractor = create_extractor("pixels", source=train)
    reference = Subset(train, np.arange(300, len(train)))
    real = RealImages(extract(extractor, reference), extract(extractor, held_out))
    good = ArraySource(train.images[:300], train.labels[:300], train.class_names)

    def measured(images=good.images, labels=good.labels):
        source = ArraySource(images, labels, train.class_names)
        return measure(extract(extractor, source), real, thorough=False)

    return measured, good, reference


def test_noise_and_blur_increase_every_distance(handwritten):
    measured, good, _ = handwritten
    plain = measured()
    for change in (noisy, blurred):
        little, much = (measured(change(good.images, amount)) for amount in ((40, 80) if change is noisy else (0.5, 1)))
        for name in ("fd", "kid"):
            values = [found[name].estimate.value for found in (plain, little, much)]
            assert values == sorted(values), (change, name)
        assert much["coverage"].estimate.high < plain["coverage"].estimate.low
    assert measured(noisy(good.images, 80))["precision"].estimate.high < plain["precision"].estimate.low


def test_recall_and_coverage_detect_missing_classes(handwritten):
    measured, good, _ = handwritten
    plain = measured()
    few = np.flatnonzero(good.labels < 3)
    repeated = np.resize(few, 300)
    lost = measured(good.images[repeated], good.labels[repeated])
    for name in ("recall", "coverage"):
        assert lost[name].estimate.high < plain[name].estimate.low
    assert lost["precision"].estimate.value > 0.6
    assert lost["fd"].estimate.value > 2 * plain["fd"].estimate.value


def test_only_memorization_detects_copies_of_training_images(handwritten):
    measured, _, reference = handwritten
    plain = measured()
    chosen = reference.indices[:300]
    copies = measured(reference.source.images[chosen], reference.source.labels[chosen])
    assert copies["memorization"].estimate.value == 1
    assert copies.memorization.copies == 300
    assert [pair.train for pair in copies.memorization.pairs] == list(range(10))
    assert plain["memorization"].estimate.value < 0.1
    assert 0.2 < plain["memorization_nearer"].estimate.value < 0.8
    assert copies["fd"].estimate.value < 1.2 * plain["fd"].estimate.value


def test_label_agreement_detects_swapped_classes(handwritten):
    measured, good, _ = handwritten
    plain, swapped = measured(), good.labels.copy()
    swapped[good.labels == 1], swapped[good.labels == 7] = 7, 1
    wrong = measured(labels=swapped)
    assert plain["label_agreement"].estimate.value > 0.8
    assert plain.classifier_accuracy.value > 0.8
    share = np.isin(good.labels, (1, 7)).mean()
    assert wrong["label_agreement"].estimate.value < plain["label_agreement"].estimate.value - 0.8 * share
    assert wrong["kid"] == plain["kid"]


def test_efficientnet_features_rank_real_blurred_and_random_images():
    """KID of other real images, blurred ones and noise, at 96 pixels, where n is far below D."""
    everything = emoji()
    faces = np.flatnonzero(everything.labels == 0)
    extractor = create_extractor("efflite0")

    def features(images):
        return extract(extractor, ArraySource(images, np.zeros(len(images), dtype=np.int64), ())).values

    reference, others = (everything.images[faces[start::2][:32]] for start in (0, 1))
    random = np.random.default_rng(0).integers(0, 256, others.shape, dtype=np.uint8)
    found = [
        kernel_distance(features(images), features(reference)).value for images in (others, blurred(others, 1), random)
    ]
    assert found == sorted(found)
    assert found[1] > 2 * abs(found[0])
