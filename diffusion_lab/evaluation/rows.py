"""Rows of a measurement: each metric for the samples, for real images in their place, and by class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from diffusion_lab.evaluation.class_values import Classes
from diffusion_lab.evaluation.families import (
    BETTER,
    FAMILIES,
    QUICK,
    Values,
    count_images,
    count_reference_images,
    full_name,
    memorization_values,
    reason_not_applicable,
)
from diffusion_lab.evaluation.measurement import NullRow, Row
from diffusion_lab.evaluation.metrics import Estimate, Extrapolation, Memorization, frechet_distance_infinity
from diffusion_lab.evaluation.metrics.memorization import LEAVE_ONE_OUT, compare_distances
from diffusion_lab.evaluation.null_rows import NullComparison, compute_null_rows, matched_samples, null_comparison
from diffusion_lab.evaluation.real_images import RealImages, renumber_classes
from diffusion_lab.features.feature_set import FeatureSet
from diffusion_lab.metric_names import MIN_IMAGES

MAX_NAMES = 5
"""Maximum number of classes named in a note."""


class RowBuilder:
    """Computes the rows of one set of samples, and collects notes on them.

    Args:
        real: Real images.
        samples: Samples, whose classes are renumbered as those of the reference.
        thorough: Whether to compute null rows, values by class, FD∞ and the interval of the Fréchet distance.
    """

    def __init__(self, real: RealImages, samples: FeatureSet, thorough: bool) -> None:
        self.real, self.thorough = real, thorough
        self.samples, unknown = renumber_classes(samples, real.class_names)
        self.rows: list[Row] = []
        self.skipped: dict[str, str] = {}
        self.notes: list[str] = []
        self.memorization: Memorization | None = None
        self.classifier_accuracy: Estimate | None = None
        self._families = FAMILIES if thorough else QUICK
        self._classes = Classes(self.samples, real) if thorough else None
        if self._classes is not None:
            self._note_classes(self._classes.sizes)
        if unknown:
            self.notes.append(f"Samples of classes that the real images lack count as unlabelled: {_list(unknown)}.")

    def add(self, family: str) -> None:
        """Add the rows of a metric, or record why it does not apply."""
        reason = reason_not_applicable(family, self.samples, self.real)
        if reason is not None:
            self.skipped[family] = reason
            return
        values = self._values(family)
        null = self._null(family) if self.thorough else None
        matched = self.samples if null is None or null.same_conditions else matched_samples(family, self.samples, null)
        nulls = {} if null is None else self._null_rows(family, null, matched)
        classes = {} if self._classes is None else self._classes.values(family, null, matched)
        for metric, estimate in values.items():
            self.rows.append(
                Row(
                    name=full_name(metric, self.samples.extractor),
                    metric=metric,
                    estimate=estimate,
                    n=count_images(family, self.samples),
                    reference_n=count_reference_images(family, self.real),
                    better=BETTER[metric],
                    null=nulls.get(metric),
                    limit=self._limit(metric, estimate),
                    classes={name: by_metric[metric] for name, by_metric in classes.items() if metric in by_metric},
                )
            )

    def _values(self, family: str) -> Values:
        """Return the values of the samples, and record memorization and the classifier's accuracy."""
        if family == "memorization":
            self.memorization = compare_distances(self.real.nearest(self.samples), self.real.unseen)
            self._note_memorization(self.memorization)
            return memorization_values(self.memorization)
        if family == "label_agreement":
            self.classifier_accuracy = self.real.classifier.held_out_accuracy
        return self._families[family](self.samples, self.real)

    def _limit(self, metric: str, estimate: Estimate) -> Extrapolation | None:
        if metric != "fd" or not self.thorough:
            return None
        limit = frechet_distance_infinity(self.samples.values, self.real.normal, seed=self.real.seed, estimate=estimate)
        if not limit.reliable:
            count, size = self.samples.values.shape
            self.notes.append(
                f"FD∞ is not reliable: each point of its line needs more samples than there are features ({size}), "
                f"which requires {2 * size + 2} samples in all, and there are {count}."
            )
        return limit

    def _null(self, family: str) -> NullComparison | None:
        """Choose the images of the null row; None, with a note, if there are too few real images."""
        null = null_comparison(family, count_images(family, self.samples), self.real)
        if null is None:
            self.notes.append(
                f"{family} has no null row: it requires {2 * MIN_IMAGES} reference images, or as many held-out images "
                "as samples."
            )
            return None
        reason = reason_not_applicable(family, null.images, null.real)
        if reason is not None:
            self.notes.append(f"{family} has no null row: for real images in place of samples, {reason}.")
            return None
        return null

    def _null_rows(self, family: str, null: NullComparison, matched: FeatureSet) -> dict[str, NullRow]:
        rows = compute_null_rows(family, null, matched)
        if "fd" in rows:
            row, images = rows["fd"], null.images.values
            limit = frechet_distance_infinity(images, null.real.normal, seed=null.real.seed, estimate=row.estimate)
            rows["fd"] = replace(row, limit=limit)
        return rows

    def _note_classes(self, counts: dict[str, tuple[int, int]]) -> None:
        without = [name for name, (samples, _) in counts.items() if not samples]
        unknown = [name for name, (_, reference) in counts.items() if not reference]
        few = [name for name, both in counts.items() if all(both) and min(both) < MIN_IMAGES]
        if without:
            self.notes.append(f"There are no samples of {len(without)} of {len(counts)} classes: {_list(without)}.")
        if unknown:
            self.notes.append(f"There are no reference images of {len(unknown)} classes: {_list(unknown)}.")
        if few:
            self.notes.append(
                f"{len(few)} of {len(counts)} classes have fewer than {MIN_IMAGES} samples or reference images, and "
                f"so no distances by class: {_list(few)}."
            )

    def _note_memorization(self, memorization: Memorization) -> None:
        if memorization.compared_with == LEAVE_ONE_OUT:
            self.notes.append(
                "Without held-out images, memorization compares with the training images themselves: with the distance "
                "of each to the nearest other one."
            )
        if memorization.unseen_copies:
            self.notes.append(
                f"{memorization.unseen_copies} real images that memorization compares with "
                f"({memorization.compared_with}) have the features of another training image; they are excluded."
            )
        if memorization.copies:
            self.notes.append(f"{memorization.copies} samples have exactly the features of a training image.")


def _list(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return ", ".join(names[:MAX_NAMES]) + more
