"""Times of the steps, by formula."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest

from diffusion_lab.diffusion.continuous import ContinuousCosineSchedule, EDMSchedule
from diffusion_lab.diffusion.level import Level, log_snr
from diffusion_lab.diffusion.schedules import DiscreteSchedule, linear_betas, sigmoid_betas
from diffusion_lab.samplers import DDIMSampler
from diffusion_lab.samplers.spacing import MAX_LOG_SNR
from tests.diffusion.processes import PROCESSES


@pytest.mark.parametrize("steps", [2, 5, 18])
def test_karras_is_equation_5_of_edm(steps):
    """arXiv:2206.00364: sigma_i = (max^(1/rho) + i / (N - 1) (min^(1/rho) - max^(1/rho)))^rho with rho = 7."""
    least, most, rho = 0.002, 80.0, 7
    ends = most ** (1 / rho), least ** (1 / rho)
    expected = [(ends[0] + i / (steps - 1) * (ends[1] - ends[0])) ** rho for i in range(steps)]
    levels = DDIMSampler(steps=steps, spacing="karras").levels(EDMSchedule(least, most))
    assert [level.sigma for level in levels] == pytest.approx([*expected, 0], rel=1e-9)


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("spacing", ["karras", "log_snr"])
def test_both_ends_of_the_process_are_among_the_levels(spacing, process):
    """Where the image is gone at the noisy end, a log-SNR of -15 stands for the infinite one."""
    schedule = PROCESSES[process]
    first, *_, last, clean = DDIMSampler(steps=9, spacing=spacing).levels(schedule)
    begin, end = (log_snr(schedule.level(time)) for time in (1.0, schedule.first_time))
    assert log_snr(first) == pytest.approx(-MAX_LOG_SNR if math.isinf(begin) else begin, abs=1e-6)
    assert log_snr(last) == pytest.approx(end, abs=1e-6)
    assert clean == Level(1.0, 0.0, 0.0)


@pytest.mark.parametrize("spacing", ["karras", "log_snr"])
@pytest.mark.parametrize(("least", "most"), [(0.002, 1e4), (1e-6, 1e6)])
def test_finite_ends_are_taken_as_they_are(spacing, least, most):
    first, *_, last, _ = DDIMSampler(steps=9, spacing=spacing).levels(EDMSchedule(least, most))
    assert (first.sigma, last.sigma) == pytest.approx((most, least), rel=1e-9)


@pytest.mark.parametrize("spacing", ["karras", "log_snr"])
@pytest.mark.parametrize("steps", [1300, 2000])
def test_no_step_is_spent_where_float32_sees_pure_noise(spacing, steps):
    """After 1,300 of these steps alpha is 1e-250, after 2,000 it is 0: to images, both are."""
    schedule = DiscreteSchedule(sigmoid_betas(steps, 1e-4, 0.9999))
    first, second, *_ = DDIMSampler(steps=9, spacing=spacing).levels(schedule)
    assert log_snr(first) == pytest.approx(-MAX_LOG_SNR, abs=1e-6)
    assert log_snr(second) > -MAX_LOG_SNR


def halves_to_even(numerator: int, denominator: int) -> int:
    return round(Fraction(numerator, denominator))


STEPS = [1, 2, 3, 7, 16, 48, 96, 112, 300, 334, 600, 999, 1000]


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("total", [1000, 1001])
def test_strides_of_time_are_those_of_the_table_for_any_number_of_steps(total, steps):
    """arXiv:2305.08891, table 2, in whole numbers: numpy's own arange misses a half by rounding."""
    schedule = DiscreteSchedule(linear_betas(total, 1e-4, 0.02))
    expected = {
        "trailing": [halves_to_even(total * (steps - i), steps) for i in range(steps)],
        "linspace": [halves_to_even((steps - 1) * total - (total - 1) * i, steps - 1) for i in range(steps)]
        if steps > 1
        else [total],
        "leading": [*range(1, total + 1, total // steps)][:steps][::-1],
    }
    for spacing, times in expected.items():
        levels = DDIMSampler(steps=steps, spacing=spacing).levels(schedule)
        assert [round(level.time * total) for level in levels[:-1]] == times, spacing


@pytest.mark.parametrize("process", PROCESSES)
def test_log_snr_goes_in_equal_strides(process):
    values = [log_snr(level) for level in DDIMSampler(steps=7, spacing="log_snr").levels(PROCESSES[process])[:-1]]
    assert values == pytest.approx([values[0] + i / 6 * (values[-1] - values[0]) for i in range(7)], abs=1e-6)


@pytest.mark.parametrize("spacing", ["trailing", "leading", "linspace"])
def test_a_continuous_process_takes_times_between_those_of_any_table(spacing):
    levels = DDIMSampler(steps=3, spacing=spacing).levels(ContinuousCosineSchedule())
    expected = {"trailing": [1, 2 / 3, 1 / 3], "leading": [2 / 3, 1 / 3, 0], "linspace": [1, 0.5, 0]}[spacing]
    assert [level.time for level in levels] == pytest.approx([*expected, 0], abs=1e-12)


def test_a_list_of_times_is_taken_as_it_is():
    schedule = ContinuousCosineSchedule()
    levels = DDIMSampler(steps=None, spacing=(1.0, 0.45, 0.1)).levels(schedule)
    assert levels == [*map(schedule.level, (1.0, 0.45, 0.1)), Level(1.0, 0.0, 0.0)]
    assert DDIMSampler(steps=3, spacing=(1.0, 0.45, 0.1)).levels(schedule) == levels


@pytest.mark.parametrize("times", [(), (0.5, 0.5), (0.2, 0.8)])
def test_a_list_that_does_not_fall_is_refused(times):
    with pytest.raises(ValueError, match=r"^spacing must be a falling list of times in \(0, 1\], got \["):
        DDIMSampler(steps=None, spacing=times)


def test_a_list_of_another_length_than_the_steps_is_refused():
    with pytest.raises(ValueError, match=r"^steps must be null \(None\) or 2, the number of times in .*, got 50"):
        DDIMSampler(spacing=(1.0, 0.5))


def test_one_step_begins_at_the_noisy_end():
    for spacing in ("trailing", "linspace", "karras", "log_snr"):
        first, clean = DDIMSampler(steps=1, spacing=spacing).levels(EDMSchedule(sigma_max=80))
        assert first.sigma == pytest.approx(80)
        assert clean.sigma == 0
    assert math.isinf(log_snr(clean))
