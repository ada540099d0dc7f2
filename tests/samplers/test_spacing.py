"""Where a walk stops, by formula."""

from __future__ import annotations

import math

import pytest

from diffusion_lab.diffusion.continuous import ContinuousCosineSchedule, EDMSchedule
from diffusion_lab.diffusion.level import Level, log_snr
from diffusion_lab.samplers import DDIMSampler
from diffusion_lab.samplers.spacing import MOST_LOG_SNR
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
    """Up to the log-SNR at which the image or the noise is as good as gone."""
    schedule = PROCESSES[process]
    first, *_, last, clean = DDIMSampler(steps=9, spacing=spacing).levels(schedule)
    begin, end = (log_snr(schedule.level(time)) for time in (1.0, schedule.first_time))
    assert log_snr(first) == pytest.approx(max(begin, -MOST_LOG_SNR), abs=1e-6)
    assert log_snr(last) == pytest.approx(min(end, MOST_LOG_SNR), abs=1e-6)
    assert clean == Level(1.0, 0.0, 0.0)


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
    with pytest.raises(ValueError, match=r"sampler\.spacing must be a falling list of times in \(0, 1\], got \["):
        DDIMSampler(steps=None, spacing=times)


def test_a_list_of_another_length_than_the_steps_is_refused():
    with pytest.raises(ValueError, match=r"sampler\.steps must be null or 2, the number of times in .*, got 50"):
        DDIMSampler(spacing=(1.0, 0.5))


def test_one_step_begins_at_the_noisy_end():
    for spacing in ("trailing", "linspace", "karras", "log_snr"):
        first, clean = DDIMSampler(steps=1, spacing=spacing).levels(EDMSchedule(sigma_max=80))
        assert first.sigma == pytest.approx(80)
        assert clean.sigma == 0
    assert math.isinf(log_snr(clean))
