"""Curves: throughput without pauses, and thinning that keeps what one looks for."""

from __future__ import annotations

import pytest

from diffusion_lab.reports.charts import charts_for
from diffusion_lab.reports.curves import non_finite_steps, thinned, throughput
from diffusion_lab.reports.records import Curve


def test_throughput_leaves_out_the_pause_between_epochs():
    seconds = [1.0, 2.0, 3.0, 13.0, 14.0]  # 10 s of validation after step 29
    curve = Curve([9, 19, 29, 39, 49], seconds, [0.0] * 5)
    speed = throughput(curve, images_per_step=64, epoch_ends=[29, 59])
    assert speed.steps == [19, 29, 49]
    assert speed.values == [640.0] * 3


def test_throughput_of_a_clock_that_stands_still_is_unknown():
    assert len(throughput(Curve([0, 1], [5.0, 5.0], [0.0, 0.0]), 64, [])) == 0


def test_thinning_keeps_spikes_ends_and_gaps():
    values: list[float | None] = [1.0] * 10_000
    values[4321], values[7000] = 50.0, None
    few = thinned(Curve(list(range(10_000)), [float(step) for step in range(10_000)], values), 100)
    assert len(few) < 120
    assert (few.steps[0], few.steps[-1]) == (0, 9999)
    assert few.values[few.steps.index(4321)] == 50.0
    assert few.values[few.steps.index(7000)] is None
    assert few.steps == sorted(few.steps)


def test_short_curves_stay_as_they_are():
    curve = Curve([1, 2], [0.1, 0.2], [3.0, None])
    assert thinned(curve, 60) is curve


def test_losses_that_are_nan_are_found():
    curves = {"train/loss": Curve([1, 2], [0, 0], [1.0, None]), "val/kid": Curve([3], [0], [None])}
    assert non_finite_steps(curves) == [2]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("train/loss", "loss"),
        ("val/loss_at_high_noise", "bands"),
        ("val/kid_digits", "quality"),
        ("val/fid", "quality"),
        ("train/learning_rate", "rate"),
        ("train/gradient_norm", "norm"),
        ("train/images_per_second", "throughput"),
        ("my/metric", "other"),
    ],
)
def test_every_metric_has_its_chart(name, kind):
    (chart,) = charts_for([name])
    assert (chart.kind, list(chart.lines)) == (kind, [name])


def test_metrics_without_a_chart_of_their_own():
    assert charts_for(["val/evaluation_seconds", "val/loss_raw_at_low_noise"]) == []


def test_higher_is_better_where_it_is():
    better = {chart.title: chart.better for chart in charts_for(["val/precision_digits", "val/kid_digits", "val/loss"])}
    assert better == {"Loss": "lower", "Precision": "higher", "Kernel distance": "lower"}
