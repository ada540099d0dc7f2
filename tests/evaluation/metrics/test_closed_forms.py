"""Metrics with known values: closed forms, exact counts, degenerate sets and invalid input."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from diffusion_lab.evaluation.metrics import (
    LabelClassifier,
    density_coverage,
    frechet_distance,
    frechet_distance_infinity,
    frechet_estimate,
    inception_score,
    kernel,
    kernel_distance,
    label_agreement,
    memorization,
    precision_recall,
)
from diffusion_lab.evaluation.metrics.estimate import mean_estimate, normal_estimate, proportion_estimate


def normal(count, size, seed=0):
    return torch.randn(count, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def points_of(mean, covariance, count):
    """Return points with exactly this sample mean and sample covariance, by whitening and colouring."""
    points = normal(count, len(mean))
    points = points - points.mean(0)
    white = torch.linalg.qr(points).Q * math.sqrt(count - 1)
    values, axes = torch.linalg.eigh(covariance)
    return white @ (axes * values.sqrt()).T + mean


def random_covariance(size, seed):
    root = normal(size, size, seed)
    return root @ root.T / size + 0.1 * torch.eye(size, dtype=torch.float64)


def test_frechet_distance_of_gaussians_equals_the_closed_form():
    """tr(A + B − 2 (A B)^½) by the symmetric root √A B √A, on points with exactly these covariances."""
    size = 24
    first, second = random_covariance(size, 1), random_covariance(size, 2)
    shift = torch.linspace(-1, 1, size, dtype=torch.float64)
    values, axes = torch.linalg.eigh(first)
    root = axes @ values.sqrt().diag() @ axes.T
    trace = torch.linalg.eigvalsh(root @ second @ root).sqrt().sum()
    expected = float(shift.square().sum() + first.trace() + second.trace() - 2 * trace)
    got = frechet_distance(points_of(shift, first, 500), points_of(torch.zeros_like(shift), second, 900))
    assert got == pytest.approx(expected, abs=1e-8)


def test_frechet_distance_of_diagonal_covariances():
    """The distance is the sum of (σ₁ − σ₂)² over the axes, plus the squared shift."""
    one, other = torch.tensor([1.0, 4.0, 9.0]).double(), torch.tensor([4.0, 1.0, 0.0]).double()
    zero = torch.zeros(3, dtype=torch.float64)
    got = frechet_distance(points_of(zero + 2, one.diag(), 50), points_of(zero, other.diag(), 70))
    assert got == pytest.approx(3 * 4 + 1 + 1 + 9, abs=1e-8)


@pytest.mark.parametrize("count", [40, 64, 65, 300])
def test_frechet_distance_of_fewer_images_than_features_is_exact(count):
    """The distance to scaled and shifted points is (k − 1)² tr Σ + ‖shift‖², for any rank of Σ."""
    points = normal(count, 64)
    stretched = points.mean(0) + 3 * (points - points.mean(0)) + 0.5
    expected = 4 * float(points.var(0).sum()) + 64 * 0.25
    assert frechet_distance(points, stretched) == pytest.approx(expected, rel=1e-10)
    assert frechet_distance(points, points) == pytest.approx(0, abs=1e-8)


def test_frechet_distance_of_orthogonal_subspaces():
    """No feature varies in both sets, so the root of the product is 0, whose eigenvalues would be rounding errors."""
    first, second = torch.zeros(200, 40).double(), torch.zeros(300, 40).double()
    first[:, :20], second[:, 20:] = normal(200, 20, 1), 1000 * normal(300, 20, 2)
    expected = float((first.mean(0) - second.mean(0)).square().sum() + first.var(0).sum() + second.var(0).sum())
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-12)


def test_frechet_distance_is_invariant_to_rotation_and_translation():
    first, second = normal(150, 12, 1), 1.3 * normal(130, 12, 2) + 0.2
    turn = torch.linalg.qr(normal(12, 12, 3)).Q
    plain = frechet_distance(first, second)
    assert frechet_distance(first @ turn, second @ turn) == pytest.approx(plain, rel=1e-10)
    assert frechet_distance(first + 1e4, second + 1e4) == pytest.approx(plain, rel=1e-7)


def test_the_extrapolated_distance_has_less_bias():
    """For two sets from one distribution, the distance is only bias from the number of images."""
    reference = normal(20_000, 32, 1).float()
    gained = []
    for seed in range(4):
        samples = normal(800, 32, 10 + seed).float()
        limit = frechet_distance_infinity(samples, reference, seed=seed)
        plain = frechet_distance(samples, reference)
        gained.append(abs(limit.value) / plain)
        assert limit.reliable
        assert limit.points[-1] == (800, pytest.approx(plain, rel=1e-12))
        assert limit.points[0][0] == 80
        assert limit.slope > 0
        assert limit.low < limit.value < limit.high
    assert np.mean(gained) < 0.5


def test_the_extrapolation_from_fewer_images_than_features_is_unreliable():
    assert not frechet_distance_infinity(normal(40, 64), normal(200, 64, 1)).reliable


def test_the_standard_error_of_the_frechet_distance_equals_the_spread_over_draws():
    """On 100 sets of samples; the tolerance is six standard errors of the standard deviation."""
    reference = normal(500, 8, 1)
    estimates = [frechet_estimate(1.2 * normal(300, 8, 100 + seed) + 0.3, reference) for seed in range(100)]
    spread = np.std([estimate.value for estimate in estimates], ddof=1)
    assert np.mean([estimate.standard_error for estimate in estimates]) == pytest.approx(spread, rel=6 / math.sqrt(200))


def test_kernel_distance_computed_by_hand():
    """Features are ±1 on one axis: the kernel is 8 for equal signs and 0 for different ones."""
    plus, minus = torch.ones(4, 1), -torch.ones(4, 1)
    apart = kernel_distance(plus, minus)
    assert apart.value == 16  # 8 within each, 0 across
    assert apart.subset_size == 4
    assert apart.standard_error == 0
    mixed = torch.tensor([[1.0], [1.0], [-1.0], [-1.0]])
    # Within `mixed` 4 of 12 pairs are equal, across half of them: 8/3 + 8 − 2·4.
    assert kernel_distance(mixed, plus).value == pytest.approx(8 / 3 + 8 - 8, rel=1e-12)


def test_kernel_distance_is_unbiased():
    """For two sets from one distribution, the mean is 0, and the standard error equals the spread over draws."""
    reference = normal(1500, 6, 1)
    estimates = [kernel_distance(normal(120, 6, 50 + seed), reference, subsets=20) for seed in range(80)]
    values = np.array([estimate.value for estimate in estimates])
    # Given one reference, the mean over samples is the reference's own deviation, of the order of that of 1,500 images.
    assert abs(values.mean()) < 3 * values.std(ddof=1) * (1 / math.sqrt(80) + math.sqrt(120 / 1500))
    assert min(values) < 0 < max(values)
    assert 0.6 < np.mean([estimate.standard_error for estimate in estimates]) / values.std(ddof=1) < 1.8


def test_kernel_sums_by_blocks_and_by_subsets_are_equal():
    """Sums of few, small subsets are computed by subset, those of many, large ones by blocks of the whole kernel."""
    samples, reference = normal(90, 5), normal(80, 5, 1) + 0.5
    chosen = [np.arange(20), np.arange(40, 60), np.arange(60, 80)]
    apart = kernel._sums(samples, reference, chosen, chosen)  # 1,200 values of subsets, 7,200 of all
    memberships = [kernel._membership(chosen, len(features)) for features in (samples, reference)]
    np.testing.assert_allclose(apart, kernel._blockwise_sums(samples, reference, *memberships), rtol=1e-12)
    within = kernel._sums(samples, samples, chosen, chosen)
    expected = [
        float(((one @ one.T / 5 + 1) ** 3).sum() - ((one.square().sum(1) / 5 + 1) ** 3).sum())
        for one in (samples[torch.from_numpy(indices)] for indices in chosen)
    ]
    np.testing.assert_allclose(within, expected, rtol=1e-12)


def test_inception_score_of_confident_and_uniform_predictions():
    classes = 5
    sure = 1000 * torch.eye(classes).repeat(400, 1)
    assert inception_score(torch.zeros(200, classes)).value == pytest.approx(1, abs=1e-12)
    assert inception_score(sure, splits=2).value == pytest.approx(classes, rel=0.02)
    assert inception_score(torch.tensor([[1000.0, -1000.0]]).repeat(20, 1)).value == 1  # a class without any share


def test_precision_and_recall_of_nested_sets():
    """Points 0 to 99 on a line, and the middle half of them, which lies entirely within the line."""
    line = torch.arange(100.0)[:, None]
    middle = line[25:75]
    found = precision_recall(middle, line)
    assert found.precision.value == 1
    assert found.recall.value == pytest.approx(0.56)  # three more at each end: the balls of the ends reach to 3
    far = precision_recall(line + 1000, line)
    assert (far.precision.value, far.recall.value) == (0, 0)
    assert 0 < far.precision.high < 0.05


def test_density_and_coverage_of_copies_and_of_one_point():
    reference = normal(60, 3).float()
    copies = density_coverage(reference.clone(), reference)
    assert copies.density.value == 1.0  # each ball holds its centre and 4 of its 5 neighbours
    assert copies.coverage.value == 1.0
    single = density_coverage(reference[:1].repeat(60, 1), reference)
    assert single.coverage.value < 0.4
    assert single.coverage.low < single.coverage.value < single.coverage.high


def test_memorization_of_copies_and_of_unseen_points():
    train, held_out = normal(300, 6, 1).float(), normal(100, 6, 2).float()
    copies = memorization(train[:50], train, held_out)
    assert copies.share.value == 1
    assert copies.nearer.value == 1
    assert copies.copies == 50
    assert [pair.sample for pair in copies.pairs] == [pair.train for pair in copies.pairs] == list(range(10))
    unseen = memorization(normal(200, 6, 3).float(), train, held_out)
    assert unseen.expected_share == 1 / 101
    assert unseen.share.value < 0.1
    assert 0.35 < unseen.nearer.value < 0.65
    assert unseen.copies == 0
    distances = torch.cdist(normal(200, 6, 3).float().double(), train.double())
    nearest = unseen.pairs[0]
    assert nearest.distance == pytest.approx(float(distances.min()), rel=1e-9)
    assert divmod(int(distances.argmin()), 300) == (nearest.sample, nearest.train)


def test_memorization_without_held_out_images_compares_with_the_training_images():
    train = torch.arange(0.0, 100, 2)[:, None]
    found = memorization(torch.tensor([[0.5], [3.0], [10.0]]), train)
    assert found.compared_with == "each training image against the others"
    assert found.threshold == 2
    assert found.share.value == 1
    assert found.nearer.value == 1


def test_memorization_excludes_held_out_copies():
    """A held-out image that is also in the training set would set the threshold to 0, and no sample is nearer."""
    train = normal(100, 4, 1).float()
    held_out = torch.cat([train[:3], normal(40, 4, 2).float() * 2])
    found = memorization(train[:20] + 1e-6, train, held_out)
    assert found.unseen_copies == 3
    assert found.threshold > 0
    assert found.share.value == 1
    nothing = memorization(train[:20], train, train[:5])
    assert (nothing.threshold, nothing.share.value, nothing.nearer.value) == (0, 0, 0.5)


def test_label_agreement_by_class():
    centres = 8 * torch.eye(3, 10)
    labels = torch.arange(3).repeat(60)
    features = centres[labels] + normal(180, 10).float()
    classifier = LabelClassifier.fit(features, labels)
    assert classifier.held_out_accuracy.value == 1
    assert classifier.trained_on == 144
    wrong = labels.clone()
    wrong[labels == 2] = 1
    agreement = classifier.agreement(features, wrong)
    assert agreement.overall.value == pytest.approx(2 / 3)
    assert {number: estimate.value for number, estimate in agreement.classes.items()} == {0: 1.0, 1: 0.5}
    given = LabelClassifier.fit(features, labels, held_out=(features[:30], wrong[:30]))
    assert given.trained_on == 180
    assert given.held_out_accuracy.value == pytest.approx(2 / 3)


def test_a_subset_of_the_training_images_contains_rare_classes(monkeypatch):
    monkeypatch.setattr(label_agreement, "MAX_TRAINING_IMAGES", 10)
    labels = torch.tensor([0] * 200 + [1])
    for seed in range(3):
        classifier = LabelClassifier.fit(normal(201, 4).float(), labels, seed=seed)
        assert (classifier.known, classifier.trained_on) == ({0, 1}, 10)


EQUAL = torch.full((40, 7), 3.25)


def test_images_that_are_all_equal_give_finite_numbers():
    numbers = [
        *(frechet_distance(EQUAL, EQUAL), frechet_estimate(EQUAL, EQUAL).standard_error),
        *(frechet_distance_infinity(EQUAL, EQUAL).value, frechet_distance_infinity(EQUAL, EQUAL).high),
        *(kernel_distance(EQUAL, EQUAL).value, kernel_distance(EQUAL, EQUAL).standard_error),
        *(estimate.value for estimate in precision_recall(EQUAL, EQUAL)),
        *(estimate.value for estimate in density_coverage(EQUAL, EQUAL)),
        *(memorization(EQUAL, EQUAL).share.value, memorization(EQUAL, EQUAL).nearer.value),
        inception_score(EQUAL).value,
        *(estimate.high for estimate in (*precision_recall(EQUAL, EQUAL), *density_coverage(EQUAL, EQUAL))),
    ]
    assert all(math.isfinite(number) for number in numbers)
    assert frechet_distance(EQUAL, EQUAL) == 0
    assert [estimate.value for estimate in precision_recall(EQUAL, EQUAL)] == [1, 1]
    assert density_coverage(EQUAL, EQUAL).coverage.value == 1
    other = normal(40, 7).float()
    assert math.isfinite(frechet_distance(EQUAL, other))
    assert precision_recall(EQUAL, other).recall.value == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: frechet_distance(normal(1, 3), normal(9, 3)), "samples must be features of at least 2 images, got 1"),
        (lambda: frechet_distance(normal(9, 3), normal(9, 4)), "same number of features, got 3 and 4"),
        (lambda: frechet_distance(normal(9, 3), normal(9, 3)[0]), r"reference must be \(N, D\)"),
        (lambda: kernel_distance(normal(9, 3), normal(2, 3)), "reference must be features of at least 3 images"),
        (lambda: kernel_distance(normal(9, 3), normal(9, 3), subsets=1), "subsets must be at least 2, got 1"),
        (lambda: kernel_distance(normal(9, 3), normal(9, 3), subset_size=1), "subset_size must be at least 2, got 1"),
        (
            lambda: kernel_distance(
                normal(9, 3),
                normal(8, 3),
                subsets=4,
                reference_sums=kernel.KernelSums.from_features(normal(8, 3), 4, 7, 0),
            ),
            "reference_sums must be of 4 subsets of 8 images, got 4 of 7",
        ),
        (lambda: precision_recall(normal(3, 3), normal(9, 3)), "samples must be features of at least 4 images, got 3"),
        (lambda: density_coverage(normal(9, 3), normal(5, 3)), "reference must be features of at least 6 images"),
        (lambda: density_coverage(normal(9, 3), normal(9, 3), k=0), "k must be at least 1, got 0"),
        (lambda: inception_score(normal(19, 3)), "logits must be features of at least 20 images, got 19"),
        (lambda: inception_score(normal(19, 3), splits=1), "splits must be at least 2"),
        (lambda: frechet_distance_infinity(normal(19, 3), normal(30, 3)), "at least 20 images, got 19"),
        (
            lambda: memorization(normal(9, 3), normal(9, 4)),
            "samples and train must have the same number of features",
        ),
        (lambda: memorization(normal(9, 3), normal(1, 3)), "train must be features of at least 2 images"),
        (lambda: LabelClassifier.fit(normal(9, 3), torch.zeros(9, dtype=torch.long)), "at least two classes, got 1"),
        (lambda: LabelClassifier.fit(normal(9, 3), torch.arange(9)), "a class of at least 5 images"),
        (lambda: LabelClassifier.fit(normal(9, 3), torch.arange(8)), r"labels must be integers \(9,\)"),
        (lambda: frechet_distance(normal(9, 3) * float("nan"), normal(9, 3)), "samples must be finite, but the"),
    ],
)
def test_invalid_features_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_integer_features_are_refused():
    with pytest.raises(TypeError, match=r"samples must be a floating-point tensor \(N, D\), got torch.int64"):
        frechet_distance(torch.arange(6).reshape(3, 2), normal(3, 2))


def test_intervals():
    estimate = normal_estimate(1.0, 0.5, "m", low=0.5)
    assert (estimate.low, estimate.high) == (0.5, pytest.approx(1.97998, abs=1e-4))
    share = proportion_estimate(0, 20, "samples")
    assert (share.value, share.low) == (0, 0)
    assert share.high == pytest.approx(0.1611, abs=1e-4)  # 1.96² / (20 + 1.96²)
    few = mean_estimate([1.0, 2.0, 3.0], "m")
    assert few.high - few.value == pytest.approx(4.30265 / math.sqrt(3), rel=1e-5)
    with pytest.raises(ValueError, match="at least 2 numbers"):
        mean_estimate([1.0], "m")
    with pytest.raises(ValueError, match="got 3 of 2"):
        proportion_estimate(3, 2, "samples")
