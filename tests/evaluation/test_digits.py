"""Metrics of generated digits, on digits with known values."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diffusion_lab.data.digits import digits
from diffusion_lab.evaluation.digits import DigitEvaluator, frechet_distance


@pytest.fixture(scope="module")
def evaluator():
    return DigitEvaluator()


@pytest.fixture(scope="module")
def held_out():
    source = digits(subset="heldout")
    return torch.from_numpy(source.images), torch.from_numpy(source.labels)


def test_real_accuracy_is_that_on_held_out_digits(evaluator, held_out):
    pixels, labels = held_out
    assert evaluator.real_accuracy >= 0.97
    assert evaluator.label_agreement(pixels, labels) == evaluator.real_accuracy


def test_label_agreement_is_the_fraction_of_matching_labels(evaluator):
    train = digits(subset="train")
    pixels, labels = torch.from_numpy(train.images[:200]), torch.from_numpy(train.labels[:200])
    assert evaluator.label_agreement(pixels, labels) == 1.0
    asked = labels.clone()
    asked[:50] = (asked[:50] + 1) % 10
    assert evaluator.label_agreement(pixels, asked) == 0.75


def test_held_out_digits_have_a_distance_ratio_of_one(evaluator, held_out):
    assert evaluator.pixel_fd_ratio(held_out[0]) == pytest.approx(1.0, rel=1e-9)


def test_training_digits_have_zero_distance(evaluator):
    train = torch.from_numpy(digits(subset="train").images)
    assert evaluator.pixel_fd_ratio(train) == pytest.approx(0.0, abs=1e-5)


def test_noise_and_missing_classes_are_far(evaluator, held_out):
    pixels, labels = held_out
    noise = torch.randint(0, 256, pixels.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for bad in (noise, pixels[labels == 3], pixels[:1].expand(100, -1, -1, -1)):
        assert evaluator.pixel_fd_ratio(bad) > 10


FEATURES = np.random.default_rng(0).normal(size=(500, 6)) @ np.random.default_rng(1).normal(size=(6, 6))


def test_frechet_distance_of_a_set_to_itself_is_zero():
    assert frechet_distance(FEATURES, FEATURES) == pytest.approx(0, abs=1e-8)


def test_frechet_distance_of_a_shift_is_its_squared_length():
    shift = np.array([1.0, 0, 2, 0, 0, -2])
    assert frechet_distance(FEATURES, FEATURES + shift) == pytest.approx(9, rel=1e-8)


def test_frechet_distance_of_scaled_features():
    """With covariances S and k² S, the distance is the trace of S + k² S − 2 k S."""
    stretched = FEATURES.mean(axis=0) + 3 * (FEATURES - FEATURES.mean(axis=0))
    expected = (3 - 1) ** 2 * np.trace(np.cov(FEATURES, rowvar=False))
    assert frechet_distance(FEATURES, stretched) == pytest.approx(expected, rel=1e-8)


def test_frechet_distance_is_symmetric_and_equals_the_matrix_square_root_formula():
    """Another formula for the trace: sqrt(A)·B·sqrt(A) is symmetric, with the same eigenvalues as A·B."""
    other = np.random.default_rng(2).normal(size=(400, 6)) * [1, 2, 3, 4, 5, 6] + 0.5
    first, second = (np.cov(features, rowvar=False) for features in (FEATURES, other))
    values, vectors = np.linalg.eigh(first)
    root = vectors @ np.diag(np.sqrt(values)) @ vectors.T
    root_trace = np.sqrt(np.linalg.eigvalsh(root @ second @ root)).sum()
    means = FEATURES.mean(axis=0) - other.mean(axis=0)
    expected = means @ means + np.trace(first) + np.trace(second) - 2 * root_trace
    assert frechet_distance(FEATURES, other) == pytest.approx(expected, rel=1e-8)
    assert frechet_distance(other, FEATURES) == pytest.approx(expected, rel=1e-8)
