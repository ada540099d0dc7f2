"""The range test and the trials of batch sizes, on values with a known answer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from diffusion_lab.preview.batch_size import Trial, expected_memory, is_enough
from diffusion_lab.preview.learning_rate import evaluate, raw_losses

RATES = np.logspace(-6, 0, 160)


def as_recorded(losses: Sequence[float]) -> list[float]:
    """Return the running mean that Lightning's callback records, by its own recursion."""
    mean, recorded = 0.0, []
    for step, loss in enumerate(losses, start=1):
        mean = 0.98 * mean + 0.02 * loss
        recorded.append(mean / (1 - 0.98 ** (step + 1)))
    return recorded


def losses_with_minimum(at: float) -> list[float]:
    noise = np.random.default_rng(0).normal(0, 0.02, len(RATES))
    return list(1 - 0.5 * np.exp(-((np.log10(RATES) - np.log10(at)) ** 2)) + noise)


class TestRangeTest:
    def test_losses_of_single_steps_are_recovered(self) -> None:
        losses = losses_with_minimum(1e-2)
        assert raw_losses(as_recorded(losses)) == pytest.approx(losses)

    @pytest.mark.parametrize("rate", [1e-4, 1e-2])
    def test_suggests_a_third_of_the_best_rate(self, rate: float) -> None:
        test = evaluate(list(RATES), as_recorded(losses_with_minimum(rate)))
        assert test.suggestion == pytest.approx(rate / 3, rel=0.3)

    def test_divergence_after_the_minimum_does_not_matter(self) -> None:
        losses = [*losses_with_minimum(1e-3)[:120], *[1e6] * 30]
        test = evaluate(list(RATES[:150]), as_recorded(losses))
        assert test.suggestion == pytest.approx(1e-3 / 3, rel=0.3)

    def test_suggests_nothing_if_the_loss_does_not_fall(self) -> None:
        assert evaluate(list(RATES), as_recorded([1.0] * len(RATES))).suggestion is None


class TestBatchSizes:
    def test_ends_when_larger_ones_are_not_faster(self) -> None:
        trials = [Trial(size, speed, 0) for size, speed in ((8, 50), (16, 100), (32, 101), (64, 102))]
        assert is_enough(trials, configured=32)
        assert not is_enough(trials, configured=128)
        assert not is_enough(trials[:3], configured=8)

    def test_memory_grows_with_the_size(self) -> None:
        assert expected_memory([Trial(8, 1, 100), Trial(16, 1, 140)], 32) == 220
        assert expected_memory([Trial(8, 1, 100)], 16) == 0
