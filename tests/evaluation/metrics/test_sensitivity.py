"""Metrics detect the faults they are made for, and do not depend on threads, memory layout or block sizes."""

from __future__ import annotations

import tracemalloc

import pytest
import torch

from diffusion_lab.evaluation.metrics import (
    LabelClassifier,
    arrays,
    density_coverage,
    frechet_distance,
    frechet_distance_infinity,
    frechet_estimate,
    kernel,
    kernel_distance,
    manifold,
    memorization,
    neighbours,
    precision_recall,
)

CLASSES, SIZE = 5, 16


def draw(count, seed, classes=CLASSES):
    """Return features around one centre per class, and their labels."""
    labels = torch.arange(count) % classes
    centres = 3 * torch.randn(CLASSES, SIZE, generator=torch.Generator().manual_seed(0))
    return centres[labels] + torch.randn(count, SIZE, generator=torch.Generator().manual_seed(seed)), labels


REFERENCE, LABELS = draw(500, 1)
SAMPLES, ASKED = draw(300, 2)


def noisy(amount):
    return SAMPLES + amount * torch.randn(SAMPLES.shape, generator=torch.Generator().manual_seed(3))


def test_noise_increases_distances_and_decreases_fractions():
    series = [SAMPLES, noisy(1.0), noisy(2.0), noisy(4.0)]
    rising = [
        [frechet_distance(samples, REFERENCE) for samples in series],
        [frechet_distance_infinity(samples, REFERENCE).value for samples in series],
        [kernel_distance(samples, REFERENCE, subsets=10).value for samples in series],
    ]
    falling = [
        [precision_recall(samples, REFERENCE).precision.value for samples in series],
        [density_coverage(samples, REFERENCE).density.value for samples in series],
        [density_coverage(samples, REFERENCE).coverage.value for samples in series],
    ]
    for values in (*rising, *(list(reversed(values)) for values in falling)):
        assert values == sorted(values)
        assert values[0] < values[-1]


def test_recall_and_coverage_but_not_precision_detect_missing_classes():
    few, _ = draw(300, 2, classes=2)
    whole, lost = precision_recall(SAMPLES, REFERENCE), precision_recall(few, REFERENCE)
    assert lost.recall.high < whole.recall.low
    assert lost.precision.value > whole.precision.low
    covered, missed = density_coverage(SAMPLES, REFERENCE), density_coverage(few, REFERENCE)
    assert missed.coverage.high < covered.coverage.low
    assert missed.coverage.value == pytest.approx(0.4 * covered.coverage.value, abs=0.12)  # two of five classes
    assert frechet_estimate(few, REFERENCE).low > frechet_estimate(SAMPLES, REFERENCE).high


def test_only_memorization_detects_copies_of_the_training_set():
    held_out, _ = draw(200, 4)
    copies = REFERENCE[torch.randperm(500, generator=torch.Generator().manual_seed(5))[:300]]
    fresh = memorization(SAMPLES, REFERENCE, held_out)
    copied = memorization(copies, REFERENCE, held_out)
    assert copied.share.value == 1
    assert copied.copies == 300
    assert fresh.share.high < 0.1
    assert fresh.nearer.low < 0.5 < fresh.nearer.high
    assert frechet_distance(copies, REFERENCE) < frechet_distance(SAMPLES, REFERENCE)
    nearly = copies + 0.01 * torch.randn(copies.shape, generator=torch.Generator().manual_seed(6))
    assert memorization(nearly, REFERENCE, held_out).share.value == 1


def test_only_label_agreement_detects_swapped_classes():
    classifier = LabelClassifier.fit(REFERENCE, LABELS)
    swapped = ASKED.clone()
    swapped[ASKED == 0], swapped[ASKED == 1] = 1, 0
    right, wrong = classifier.agreement(SAMPLES, ASKED), classifier.agreement(SAMPLES, swapped)
    assert right.overall.value > 0.95
    assert wrong.overall.value == pytest.approx(right.overall.value - 0.4, abs=0.03)
    assert wrong.classes[0].value < 0.1 < 0.9 < wrong.classes[2].value


def everything():
    held_out, _ = draw(80, 4)
    limit = frechet_distance_infinity(SAMPLES, REFERENCE)
    wide = torch.randn(700, 200, generator=torch.Generator().manual_seed(7))  # enough for LAPACK to use all threads
    return [
        frechet_estimate(wide[:300], wide[300:]),
        *(frechet_estimate(SAMPLES, REFERENCE), limit.value, limit.points, limit.standard_error),
        kernel_distance(SAMPLES, REFERENCE, subsets=10),
        *precision_recall(SAMPLES, REFERENCE),
        *density_coverage(SAMPLES, REFERENCE),
        memorization(SAMPLES, REFERENCE, held_out),
        LabelClassifier.fit(REFERENCE, LABELS).agreement(SAMPLES, ASKED),
    ]


def test_results_are_bitwise_equal_for_any_number_of_threads():
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(everything())
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1] == found[2]


def test_results_are_bitwise_equal_for_any_memory_layout():
    """Features as slices of a larger array, in column-major order, and in float64."""
    wide = torch.cat([SAMPLES, REFERENCE[:300]], dim=1)[:, :SIZE]
    by_columns = SAMPLES.T.contiguous().T
    for other in (wide, by_columns, SAMPLES.double()):
        assert frechet_estimate(other, REFERENCE) == frechet_estimate(SAMPLES, REFERENCE)
        assert kernel_distance(other, REFERENCE, subsets=5) == kernel_distance(SAMPLES, REFERENCE, subsets=5)
        assert precision_recall(other, REFERENCE) == precision_recall(SAMPLES, REFERENCE)


def test_results_do_not_depend_on_block_sizes(monkeypatch):
    """Many blocks of rows and columns, as with 50,000 images."""
    whole = frechet_distance(SAMPLES, REFERENCE)
    distance, counts = kernel_distance(SAMPLES, REFERENCE, subsets=5), precision_recall(SAMPLES, REFERENCE)
    shares, pairs = density_coverage(SAMPLES, REFERENCE), memorization(SAMPLES, REFERENCE)
    for module, names in ((kernel, ("ROWS", "COLUMNS")), (neighbours, ("ROWS", "COLUMNS"))):
        for name, size in zip(names, (64, 96), strict=True):
            monkeypatch.setattr(module, name, size)
    monkeypatch.setattr(neighbours, "MAX_CACHED", 0)
    monkeypatch.setattr(arrays.chunks, "__defaults__", (70,))
    monkeypatch.setattr("diffusion_lab.evaluation.metrics.frechet.CHUNK", 50)
    assert frechet_distance(SAMPLES, REFERENCE) == pytest.approx(whole, rel=1e-10)
    assert kernel_distance(SAMPLES, REFERENCE, subsets=5).value == pytest.approx(distance.value, rel=1e-10)
    assert precision_recall(SAMPLES, REFERENCE) == counts
    assert density_coverage(SAMPLES, REFERENCE) == shares
    assert memorization(SAMPLES, REFERENCE) == pairs


def test_groups_of_samples_are_equally_large_and_independent_of_labels():
    groups = torch.from_numpy(manifold.group_numbers(400))
    assert groups.bincount().tolist() == [20] * manifold.GROUPS
    assert all(len((torch.arange(400)[groups == group] % manifold.GROUPS).unique()) > 5 for group in range(20))


def test_memory_use_is_far_below_a_matrix_of_all_pairs():
    """For 6,000 images against 6,000, a matrix would be 288 MB in float64; for 50,000 it would be 20 GB."""
    many = torch.randn(6000, 4, generator=torch.Generator().manual_seed(8))
    tracemalloc.start()
    try:
        density_coverage(many, many + 0.1)
        memorization(many, many + 0.1)
        kernel_distance(many, many + 0.1, subsets=2)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 150e6
