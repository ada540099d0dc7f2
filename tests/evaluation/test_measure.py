"""Measurements: rows by full name, null rows, values by class, skipped metrics, refusals and notes."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch

from diffusion_lab.evaluation.families import full_name
from diffusion_lab.evaluation.measure import measure
from diffusion_lab.evaluation.measurement import reasons_not_comparable
from diffusion_lab.evaluation.metrics import frechet_distance
from diffusion_lab.evaluation.null_rows import HALVES, HELD_OUT, HELD_OUT_HALVES
from diffusion_lab.evaluation.real_images import RealImages
from diffusion_lab.features.feature_set import FeatureSet

NAMES = ("ant", "bee", "cat")
SIZE = 6
SHARES = ("precision", "recall", "coverage", "label_agreement", "memorization", "memorization_nearer")
ACROSS_CLASSES = ("label_agreement", "memorization", "memorization_nearer")


def feature_set(count, seed, *, shift=0.0, names=NAMES, labelled=True, logits=False, **changes):
    """Return features around one centre per class, with cycled classes."""
    labels = torch.arange(count) % len(NAMES)
    values = 4 * torch.eye(len(NAMES), SIZE)[labels] + shift
    values = values + torch.randn(count, SIZE, generator=torch.Generator().manual_seed(seed))
    made = FeatureSet(
        values=values,
        logits=values[:, :3] if logits else None,
        labels=labels if labelled else None,
        class_names=names if labelled else (),
        extractor="net@32",
        extractor_fingerprint="a" * 64,
        data_fingerprint=f"{seed:064d}",
    )
    return replace(made, **changes)


SAMPLES, REFERENCE, HELD_OUT_SET = feature_set(90, 1), feature_set(240, 2), feature_set(120, 3)
SEEN = feature_set(100, 8)


@pytest.fixture(scope="module")
def full():
    return measure(SAMPLES, REFERENCE, held_out=HELD_OUT_SET, split="train")


def test_each_metric_has_a_row_with_its_full_name_interval_and_null_row(full):
    assert [row.name for row in full.rows] == [
        f"{name}_net@32"
        for name in (
            *("fd", "kid", "precision", "recall", "density", "coverage"),
            *("label_agreement", "memorization", "memorization_nearer"),
        )
    ]
    assert not full.skipped
    assert (full.n, full.reference_n, full.held_out_n, full.num_features) == (90, 240, 120, SIZE)
    for row in full.rows:
        assert row.n == 90
        assert row.estimate.low <= row.estimate.value <= row.estimate.high
        assert row.estimate.low < row.estimate.high
        assert row.estimate.method
        assert row.null.estimate.low <= row.null.estimate.value <= row.null.estimate.high
        if row.metric in SHARES:
            assert 0 <= row.estimate.low <= row.estimate.high <= 1
    assert full["fd"] is full["fd_net@32"]
    assert full["fd"].limit.value < full["fd"].estimate.value
    assert full["fd"].null.limit.value < full["fd"].null.estimate.value
    assert full["kid"].limit is None
    assert full.classifier_accuracy.value > 0.9
    assert len(full.memorization.pairs) == 10
    assert full["precision"].better == "higher"
    assert full["fd"].better == "lower"


def test_null_rows_are_held_out_images_of_the_same_number(full):
    for row in full.rows:
        if not row.metric.startswith("memorization"):
            assert (row.null.n, row.null.reference_n, row.null.source) == (90, 240, HELD_OUT)
            assert row.null.matched is None
    nearer = full["memorization_nearer"].null
    assert (nearer.n, nearer.source) == (60, HELD_OUT_HALVES)
    assert nearer.estimate.low < 0.5 < nearer.estimate.high
    assert nearer.matched.low < 0.5 < nearer.matched.high


def test_without_enough_held_out_images_null_rows_use_halves_and_matched_samples():
    found = measure(feature_set(150, 1), REFERENCE, held_out=HELD_OUT_SET, metrics=["fd", "precision_recall"])
    for row in found.rows:
        assert (row.n, row.reference_n) == (150, 240)
        assert (row.null.n, row.null.reference_n, row.null.source) == (120, 120, HALVES)
        assert row.null.matched is not None
    assert found["fd"].null.matched.value > found["fd"].estimate.value  # fewer images on both sides: more bias


def test_label_agreement_of_fewer_held_out_images_needs_no_halves():
    found = measure(feature_set(150, 1), REFERENCE, held_out=HELD_OUT_SET, metrics=["label_agreement"])
    null = found["label_agreement"].null
    assert (null.n, null.reference_n, null.source, null.matched) == (120, 240, HELD_OUT, None)
    assert null.estimate.value == found.classifier_accuracy.value
    unlabelled = measure(
        feature_set(150, 1), REFERENCE, held_out=feature_set(120, 3, labelled=False), metrics=["label_agreement"]
    )
    assert unlabelled["label_agreement"].null.source == HALVES


def test_intervals_of_good_samples_overlap_their_null_row_and_those_of_bad_ones_do_not(full):
    bad = measure(feature_set(90, 1, shift=1.0), REFERENCE, held_out=HELD_OUT_SET)
    for name in ("fd", "kid"):
        assert full[name].estimate.low < full[name].null.estimate.high
        assert bad[name].estimate.low > bad[name].null.estimate.high
    for name in ("precision", "density", "coverage"):
        assert full[name].estimate.high > full[name].null.estimate.low
        assert bad[name].estimate.high < bad[name].null.estimate.low


def test_values_for_each_class(full):
    for row in full.rows:
        assert set(row.classes) == set(NAMES), row.name
    mine, theirs = SAMPLES.labels == 1, REFERENCE.labels == 1
    expected = frechet_distance(SAMPLES.values[mine], REFERENCE.values[theirs])
    assert full["fd"].classes["bee"].value == pytest.approx(expected, rel=1e-9)
    wrong = SAMPLES.labels.clone()
    wrong[wrong == 0] = 1
    agreement = measure(replace(SAMPLES, labels=wrong), REFERENCE, metrics=["label_agreement"])["label_agreement"]
    assert agreement.classes["bee"].value == pytest.approx(0.5, abs=0.1)
    assert agreement.classes["cat"].value > 0.9
    assert "ant" not in agreement.classes


def test_each_class_has_numbers_of_images_and_null_values(full):
    for row in full.rows:
        for found in row.classes.values():
            assert (found.n, found.reference_n) == (30, 240 if row.metric in ACROSS_CLASSES else 80)
            assert found.null.low <= found.null.value <= found.null.high
        if row.metric not in ACROSS_CLASSES:
            assert all((found.null.n, found.null.reference_n) == (30, 80) for found in row.classes.values())
            assert all(found.null.matched is None for found in row.classes.values())
        elif row.null.n == 90:
            assert sum(found.null.n for found in row.classes.values()) == 90
    assert sum(found.null.n for found in full["memorization"].classes.values()) == 60
    nearer = full["memorization_nearer"].classes["ant"]
    assert nearer.null.matched != nearer.value
    whole = full["label_agreement"].null.estimate.value
    parts = [found.null for found in full["label_agreement"].classes.values()]
    assert sum(part.value * part.n for part in parts) / 90 == pytest.approx(whole)


def test_null_values_of_a_class_use_halves_if_it_has_enough_real_images():
    found = measure(SAMPLES, REFERENCE, metrics=["fd"])["fd"].classes["bee"]
    assert (found.n, found.reference_n) == (30, 80)
    assert (found.null.n, found.null.reference_n) == (30, 40)
    assert found.null.matched > found.value  # fewer real images: more bias
    few = measure(SAMPLES, feature_set(90, 2), metrics=["fd"])["fd"]
    assert few.null is not None
    assert few.classes["bee"].null is None


def test_a_class_without_samples_is_noted():
    two = SAMPLES.subset((SAMPLES.labels != 2).nonzero().flatten())
    found = measure(two, REFERENCE, metrics=["kid", "precision_recall", "label_agreement"])
    assert set(found["kid"].classes) == {"ant", "bee"}
    assert any("no samples of 1 of 3 classes: cat" in note for note in found.notes)
    few = measure(SAMPLES.subset(torch.arange(45)), REFERENCE, metrics=["kid", "label_agreement"])
    assert not few["kid"].classes
    assert set(few["label_agreement"].classes) == set(NAMES)
    assert any("3 of 3 classes have fewer than 20" in note for note in few.notes)


def test_classes_are_matched_by_name():
    other = replace(SAMPLES, labels=(SAMPLES.labels + 1) % 3, class_names=("cat", "ant", "bee"))
    here, there = (measure(samples, REFERENCE, metrics=["label_agreement"]) for samples in (SAMPLES, other))
    assert here["label_agreement"] == there["label_agreement"]
    strange = replace(SAMPLES, class_names=("ant", "bee", "dog"))
    found = measure(strange, REFERENCE, metrics=["label_agreement"])
    assert found["label_agreement"].n == 60
    assert any("dog" in note for note in found.notes)
    none = measure(replace(SAMPLES, class_names=("x", "y", "z")), REFERENCE, metrics=["label_agreement"])
    assert none.skipped == {"label_agreement": "no sample is of a class of the real images"}


def test_metrics_that_do_not_apply_are_skipped_with_the_reason():
    plain = measure(
        feature_set(60, 1, labelled=False),
        REFERENCE,
        metrics=["label_agreement", "inception_score", "fd"],
    )
    assert plain.skipped["label_agreement"] == "the samples have no labels"
    assert "net@32" in plain.skipped["inception_score"]
    assert [row.metric for row in plain.rows] == ["fd"]
    assert not plain["fd"].classes
    with pytest.raises(KeyError, match="the samples have no labels"):
        plain["label_agreement"]
    with pytest.raises(KeyError, match="there are"):
        plain["nothing"]
    unlabelled = measure(SAMPLES, feature_set(90, 2, labelled=False), metrics=["label_agreement", "kid"])
    assert not unlabelled.notes
    assert "at least two classes" in unlabelled.skipped["label_agreement"]


def test_label_agreement_is_skipped_if_the_classifier_cannot_be_evaluated():
    """Eight classes of three real images, and other real images without labels."""
    classes = {"labels": torch.arange(24) % 8, "class_names": tuple("abcdefgh")}
    samples, reference = (replace(feature_set(24, seed), **classes) for seed in (1, 2))
    unlabelled = feature_set(30, 3, labelled=False)
    found = measure(samples, reference, held_out=unlabelled, metrics=["kid", "label_agreement"])
    assert "no class has at least 5 real images" in found.skipped["label_agreement"]
    assert [row.metric for row in found.rows] == ["kid"]


def test_matched_samples_of_label_agreement_are_labelled():
    few = replace(feature_set(150, 1), labels=torch.tensor([0] * 25 + [3] * 125), class_names=(*NAMES, "dog"))
    found = measure(few, feature_set(45, 2), metrics=["label_agreement"])["label_agreement"]
    assert (found.n, found.null.n) == (25, 22)
    assert found.null.matched.value * 22 == pytest.approx(round(found.null.matched.value * 22))


def test_classes_are_numbered_by_the_training_images_if_the_reference_has_none():
    reference = feature_set(90, 2, labelled=False)
    other = replace(SAMPLES, labels=(SAMPLES.labels + 1) % 3, class_names=("cat", "ant", "bee"))
    for samples in (SAMPLES, other):
        found = measure(samples, reference, train=REFERENCE, metrics=["label_agreement"])["label_agreement"]
        assert found.estimate.value > 0.9
        assert set(found.classes) == set(NAMES)


def test_inception_score_needs_no_reference_and_has_a_null_row():
    found = measure(
        feature_set(60, 1, logits=True),
        feature_set(90, 2, logits=True),
        held_out=feature_set(60, 3, logits=True),
        metrics=["inception_score"],
    )["is"]
    assert (found.name, found.reference_n, found.null.n) == ("is_net@32", 0, 60)
    assert 1 < found.estimate.value < 3


@pytest.mark.parametrize(
    ("metric", "extractor", "name"),
    [
        ("fd", "inception@299", "fid"),
        ("kid", "inception", "kid"),
        ("is", "inception@299", "is"),
        ("precision", "inception@299", "precision_inception@299"),
        ("fd", "inceptionlike@299", "fd_inceptionlike@299"),
        ("kid", "inception-0123abcd@299", "kid_inception-0123abcd@299"),
        ("kid", "efflite0@96", "kid_efflite0@96"),
        ("is", "efflite0@96", "is_efflite0@96"),
    ],
)
def test_only_inception_features_give_fid_kid_and_is(metric, extractor, name):
    assert full_name(metric, extractor) == name


def test_quick_measurements_have_the_same_values_without_null_rows(full):
    quick = measure(SAMPLES, REFERENCE, held_out=HELD_OUT_SET, thorough=False)
    assert quick.values() == full.values()
    assert all(row.null is None and row.limit is None and not row.classes for row in quick.rows)


def test_real_images_are_reused_for_many_sets_of_samples(full):
    real = RealImages(REFERENCE, HELD_OUT_SET)
    first = measure(SAMPLES, real, split="train")
    assert first == full
    normal = real.normal
    measure(feature_set(60, 9), real, metrics=["fd"])
    assert real.normal is normal
    with pytest.raises(ValueError, match="held_out and train must be None"):
        measure(SAMPLES, real, held_out=HELD_OUT_SET)


def test_memorization_uses_the_training_images_with_a_validation_reference():
    found = measure(REFERENCE.subset(torch.arange(60)), HELD_OUT_SET, train=REFERENCE)
    assert found.memorization.copies == 60
    assert found.memorization.compared_with == "held-out images"
    assert found["memorization"].estimate.value == 1
    assert found["memorization"].reference_n == 240
    assert found["fd"].reference_n == 120


def test_copies_of_training_images_are_detected_with_any_reference():
    copies = SEEN.subset(torch.arange(60))
    found = measure(copies, RealImages(REFERENCE, seen=SEEN))
    assert found["memorization"].estimate.value == 1
    assert found.memorization.copies == 60
    assert (found["memorization"].reference_n, found["memorization"].null.reference_n) == (100, 100)
    assert found["memorization_nearer"].null.estimate.low < 0.5 < found["memorization_nearer"].null.estimate.high
    beside = measure(copies, REFERENCE)
    for name in ("fd", "kid", "precision", "coverage", "label_agreement"):
        assert found[name] == beside[name]
    assert beside["memorization"].estimate.value < 1


def test_a_reference_of_training_images_is_not_a_baseline_of_memorization():
    found = measure(SEEN.subset(torch.arange(60)), RealImages(SEEN.subset(torch.arange(50, 100)), seen=SEEN))
    assert found["memorization"].estimate.value == 1
    assert any("Without held-out images" in note for note in found.notes)


def test_memorization_without_held_out_images_is_noted():
    found = measure(REFERENCE.subset(torch.arange(60)), REFERENCE, metrics=["memorization"])
    assert found["memorization"].estimate.value == 1
    assert any("Without held-out images" in note for note in found.notes)
    assert any("60 samples have exactly the features" in note for note in found.notes)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: measure(feature_set(3, 1), REFERENCE), "samples must be at least 20 images, got 3"),
        (lambda: measure(SAMPLES, feature_set(3, 1)), "reference must be at least 20 images, got 3"),
        (lambda: measure(SAMPLES, REFERENCE, train=feature_set(3, 1)), "train must be at least 20 images, got 3"),
        (lambda: measure(SAMPLES, REFERENCE, metrics=["fid"]), "metrics must be among fd, kid, .*got 'fid'"),
        (
            lambda: measure(SAMPLES, replace(REFERENCE, extractor_fingerprint="b" * 64)),
            r"reference must have the features of the samples, net@32 \(aaaaaaaaaaaa\), got net@32 \(bbbbbbbbbbbb\)",
        ),
    ],
)
def test_invalid_sets_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_missing_null_rows_are_noted():
    found = measure(SAMPLES, feature_set(30, 2), metrics=["fd"])
    assert found["fd"].null is None
    assert any("fd has no null row: it requires 40 reference images" in note for note in found.notes)


def test_fewer_samples_than_features_are_noted():
    wide = replace(SAMPLES, values=torch.randn(90, 64, generator=torch.Generator().manual_seed(1)))
    real = replace(REFERENCE, values=torch.randn(240, 64, generator=torch.Generator().manual_seed(2)))
    found = measure(wide, real, metrics=["fd"])
    assert any("requires 130 samples in all, and there are 90" in note for note in found.notes)


def test_images_that_are_all_equal_give_finite_numbers():
    equal = replace(SAMPLES, values=torch.ones(90, SIZE))
    for reference in (REFERENCE, replace(REFERENCE, values=torch.ones(240, SIZE))):
        found = measure(equal, reference).to_json()
        assert all(math.isfinite(number) for number in numbers_in(found))


def numbers_in(value):
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [number for inner in value for number in numbers_in(inner)]
    return [value] if isinstance(value, float) else []


def test_the_result_is_plain_data(full):
    text = json.dumps(full.to_json(), allow_nan=False)
    read = json.loads(text)
    assert read == full.to_json()
    assert read["rows"][0]["estimate"]["value"] == full.rows[0].estimate.value
    assert read["rows"][0]["classes"]["ant"]["value"] == full.rows[0].classes["ant"].value
    assert read["rows"][0]["classes"]["ant"]["n"] == 30
    assert read["rows"][0]["classes"]["ant"]["null"]["value"] == full.rows[0].classes["ant"].null.value
    assert read["memorization"]["pairs"][0]["distance"] > 0


@pytest.mark.parametrize(
    ("samples", "reference", "changes", "reason"),
    [
        (feature_set(80, 1), REFERENCE, {}, "number of samples: 90 and 80"),
        (SAMPLES, feature_set(240, 7), {}, "reference images: 000000000000… and 000000000000…"),
        (SAMPLES, feature_set(200, 2), {}, "number of reference images: 240 and 200"),
        (SAMPLES, REFERENCE, {"split": "val"}, "split: train and val"),
        (SAMPLES, REFERENCE, {"held_out": None}, "held-out images"),
        (
            replace(SAMPLES, extractor="x@8"),
            replace(REFERENCE, extractor="x@8"),
            {"held_out": None},
            "features: net@32",
        ),
    ],
)
def test_measurements_under_other_conditions_are_not_comparable(full, samples, reference, changes, reason):
    given = {"held_out": HELD_OUT_SET, "split": "train", "metrics": ["label_agreement"], "thorough": False} | changes
    other = measure(samples, reference, **given)
    for one, two in ((full, other), (full.to_json(), json.loads(json.dumps(other.to_json())))):
        assert any(found.startswith(reason) for found in reasons_not_comparable(one, two))
        assert reasons_not_comparable(two, one)


def test_other_samples_and_another_seed_are_comparable(full):
    other = measure(feature_set(90, 5), REFERENCE, held_out=HELD_OUT_SET, split="train", seed=4, thorough=False)
    assert reasons_not_comparable(full, other) == ()
    assert reasons_not_comparable(full.to_json(), other) == ()
