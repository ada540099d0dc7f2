"""Sources in memory, subsets, and the balanced split."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion_lab.data.source import ArraySource, Subset
from diffusion_lab.data.split import balanced_split

IMAGES = np.arange(5 * 3 * 4 * 4, dtype=np.uint8).reshape(5, 3, 4, 4)


def test_array_source_and_subset_agree_on_images_and_labels():
    source = ArraySource(IMAGES, [0, 1, 1, 0, 1], ("cat", "dog"))
    subset = Subset(source, [4, 0])
    assert (len(source), source.channels, source.image_size) == (5, 3, 4)
    assert (len(subset), subset.channels, subset.image_size) == (2, 3, 4)
    assert subset.class_names == ("cat", "dog")
    assert subset.labels.tolist() == [1, 0]
    np.testing.assert_array_equal(subset.load(0, None), IMAGES[4])
    np.testing.assert_array_equal(subset.load(1, None), IMAGES[0])


@pytest.mark.parametrize(
    ("images", "labels", "names", "message"),
    [
        (IMAGES.astype(np.float32), [0] * 5, (), "must be uint8"),
        (IMAGES[..., :3], [0] * 5, (), r"got uint8 \(5, 3, 4, 3\)"),
        (IMAGES, [0] * 4, (), r"labels must be \(5,\)"),
        (IMAGES, [0, 1, 2, 0, 0], ("cat", "dog"), "0 to 1, got 0 to 2"),
        (IMAGES, [0, -1, 0, 0, 0], ("cat", "dog"), "got -1 to 0"),
        (IMAGES, [0, 1, 0, 0, 0], (), "0 to 0, got 0 to 1"),
    ],
)
def test_array_source_refuses_mismatched_arguments(images, labels, names, message):
    with pytest.raises(ValueError, match=message):
        ArraySource(images, labels, names)


def test_split_takes_the_same_share_of_each_class():
    labels = np.repeat([0, 1, 2, 3], [100, 40, 3, 1])
    train, val = balanced_split(labels, 0.1, seed=0)
    assert np.bincount(labels[val], minlength=4).tolist() == [10, 4, 1, 0]
    assert np.bincount(labels[train], minlength=4).tolist() == [90, 36, 2, 1]


def test_split_follows_the_seed():
    labels = np.repeat([0, 1], 50)
    first, again, other = (balanced_split(labels, 0.2, seed)[1] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert first.tolist() != other.tolist()


@given(
    st.lists(st.integers(0, 5), min_size=2, max_size=60).filter(lambda labels: len(set(labels)) < len(labels)),
    st.floats(0.001, 0.999),
    st.integers(0, 10),
)
def test_split_divides_without_loss_and_never_empties_a_class(labels, fraction, seed):
    labels = np.array(labels)
    train, val = balanced_split(labels, fraction, seed)
    assert sorted([*train, *val]) == list(range(len(labels)))
    for label in np.unique(labels):
        assert label in labels[train]
        assert (label in labels[val]) == ((labels == label).sum() >= 2)


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5])
def test_split_refuses_an_invalid_fraction(fraction):
    with pytest.raises(ValueError, match=rf"validation_split.fraction .*got {fraction}"):
        balanced_split(np.zeros(10, dtype=np.int64), fraction, seed=0)


@pytest.mark.parametrize("labels", [[], [0], [0, 1, 2]])
def test_split_refuses_classes_of_one_image_only(labels):
    with pytest.raises(ValueError, match=r"data\.paths\.val"):
        balanced_split(np.array(labels, dtype=np.int64), 0.5, seed=0)
