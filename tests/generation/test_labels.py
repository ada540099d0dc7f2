"""Label and guidance scale of each image of a generation."""

from __future__ import annotations

import json
import warnings
from collections import Counter

import pytest

from diffusion_lab.config import ConfigWarning
from diffusion_lab.create import create_ddpm
from diffusion_lab.generation.request import GenerationRequest, cycle_labels


@pytest.fixture(scope="module")
def cats_and_dogs():
    return create_ddpm(
        image_size=8,
        in_channels=1,
        model_channels=8,
        channel_multipliers=[1],
        use_attention=[False],
        num_classes=4,
        class_names=("cat", "dog", "7", "fox"),
    )


def labels_of(denoiser, wanted, count):
    order = GenerationRequest({}, cycle_labels(denoiser, wanted), (1.0,), denoiser.class_names, files=False)
    return [order.label(index) for index in range(count)]


@pytest.mark.parametrize(
    ("wanted", "count", "expected"),
    [
        (None, 4, [0, 1, 2, 3]),
        (None, 6, [0, 1, 2, 3, 0, 1]),
        (None, 2, [0, 1]),
        ([2], 3, [2, 2, 2]),
        (["fox", 1], 5, [3, 1, 3, 1, 3]),
        (["7"], 1, [2]),
    ],
)
def test_labels_by_number_and_name_are_cycled(cats_and_dogs, wanted, count, expected):
    assert labels_of(cats_and_dogs, wanted, count) == expected


@pytest.mark.parametrize(
    ("wanted", "labels", "count", "expected"),
    [
        ([2.0], 3, 4, [2, 2, 2, 2]),
        ([1.0, 2.0], 3, 8, [1, 1, 1, 2, 2, 2, 1, 1]),
        ([1.0, 2.0, 4.0], 1, 4, [1, 2, 4, 1]),
    ],
)
def test_scales_are_cycled_once_per_cycle_of_labels(wanted, labels, count, expected):
    order = GenerationRequest({}, tuple(range(labels)), tuple(wanted), (), files=False)
    assert [order.scale(index) for index in range(count)] == expected


@pytest.mark.parametrize("count", [1, 7, 100, 101])
def test_labels_are_spread_evenly_with_the_remainder_on_the_first(cats_and_dogs, count):
    counts = Counter(labels_of(cats_and_dogs, None, count))
    assert [counts[label] for label in range(4)] == [(count + 3 - label) // 4 for label in range(4)]


@pytest.mark.parametrize("label", [4, -1, "bird", "9", "-1", "²", ""])
def test_a_label_outside_the_classes_is_refused(cats_and_dogs, label):
    with pytest.raises(ValueError, match=rf"must be classes of the model, 0 to 3 \(cat, dog, 7, fox\), got {label!r}"):
        cycle_labels(cats_and_dogs, [0, label])


@pytest.fixture(scope="module")
def numbered():
    """Classes whose names are numbers, as of the folders 1, 2 and 3."""
    return create_ddpm(
        image_size=8,
        model_channels=8,
        channel_multipliers=[1],
        use_attention=[False],
        num_classes=3,
        class_names=("1", "2", "3"),
    )


@pytest.mark.parametrize(
    ("label", "taken", "other"),
    [
        (1, 'class 1 ("2")', """class 0 ("1") write 'generation.sampling.labels=["1"]'"""),
        ("1", 'class 0 ("1")', """class 1 ("2") write 'generation.sampling.labels=[1]'"""),
        (2, 'class 2 ("3")', """class 1 ("2") write 'generation.sampling.labels=["2"]'"""),
    ],
)
def test_string_is_a_name_and_number_an_index(numbered, label, taken, other):
    with pytest.warns(ConfigWarning) as caught:
        (found,) = cycle_labels(numbered, [label])
    assert f"{json.dumps(label)} is taken as {taken}" in str(caught[0].message)
    assert str(caught[0].message).endswith(other)
    assert f"class {found} " in taken


@pytest.mark.parametrize(("label", "number"), [(0, 0), ("3", 2)])
def test_unambiguous_label_needs_no_warning(numbered, label, number):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cycle_labels(numbered, [label]) == (number,)


def test_number_outside_the_classes_may_be_a_name(numbered):
    with pytest.raises(
        ValueError, match=r"got 3: a number is an index\. For the class of that name write '.*\[\"3\"\]'"
    ):
        cycle_labels(numbered, [3])


@pytest.mark.parametrize("label", ["3", 3])
def test_quoted_number_that_is_not_a_name_is_an_index(cats_and_dogs, label):
    assert cycle_labels(cats_and_dogs, [label]) == (3,)


def test_labels_for_an_unconditional_model_are_refused():
    plain = create_ddpm(image_size=8, model_channels=8, channel_multipliers=[1], use_attention=[False])
    assert cycle_labels(plain, None) is None
    with pytest.raises(
        ValueError, match=r"generation\.sampling\.labels must be null for an unconditional model, got \[1\]"
    ):
        cycle_labels(plain, [1])
