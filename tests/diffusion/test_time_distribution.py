"""Distributions of the training times against the densities of their papers, and how evenly they are drawn."""

from __future__ import annotations

import math

import pytest
import torch

from diffusion_lab.diffusion.continuous import EDMSchedule, FlowSchedule
from diffusion_lab.diffusion.loss import DenoisingLoss
from diffusion_lab.diffusion.parameterization import PredictVelocity
from diffusion_lab.diffusion.time_distribution import (
    TIME_DISTRIBUTIONS,
    LogitNormalTimes,
    LogNormalNoise,
    ModeTimes,
    UniformTimes,
)
from tests.diffusion.processes import PROCESSES

SHARE = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
FLOW, EDM = FlowSchedule(), EDMSchedule(sigma_min=1e-6, sigma_max=1e4)


def normal_cdf(values: torch.Tensor) -> torch.Tensor:
    return (1 + torch.erf(values / math.sqrt(2))) / 2


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (-0.5, 0.7)])
def test_logit_normal_is_a_normal_of_the_logit(mean, std):
    """arXiv:2403.03206, equation 19: the CDF of a time is the normal one of its logit."""
    times = LogitNormalTimes(mean, std).quantile(SHARE, FLOW)
    torch.testing.assert_close(normal_cdf((times.logit() - mean) / std), SHARE, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("mean", "std"), [(-1.2, 1.2), (0.0, 2.0)])
def test_log_normal_is_a_normal_of_the_logarithm_of_the_noise(mean, std):
    """arXiv:2206.00364, table 1: log sigma is N(P_mean, P_std²)."""
    level = EDM.levels(LogNormalNoise(mean, std).quantile(SHARE, EDM))
    torch.testing.assert_close(normal_cdf((level.sigma.log() - mean) / std), SHARE, rtol=0, atol=1e-9)


@pytest.mark.parametrize("scale", [-1.0, 0.0, 0.8, 1.29, 2 / (math.pi - 2)])
def test_mode_has_the_density_of_its_curve(scale):
    """arXiv:2403.03206, equation 20, f(u) = 1 - u - s (cos²(pi u / 2) - 1 + u), falling in u."""
    times = ModeTimes(scale).quantile(SHARE, FLOW)
    assert (times.diff() >= -1e-12).all()
    u = 1 - SHARE
    torch.testing.assert_close(times, 1 - u - scale * ((math.pi / 2 * u).cos() ** 2 - 1 + u), rtol=0, atol=1e-12)
    torch.testing.assert_close(times + times.flip(0), torch.ones_like(times), rtol=0, atol=1e-9)  # symmetric
    middle = ((times - 0.5).abs() < 0.1).double().mean()
    assert middle == pytest.approx(0.2, abs=1e-3) if scale == 0 else (middle > 0.2) == (scale > 0)


@pytest.mark.parametrize("name", TIME_DISTRIBUTIONS)
@pytest.mark.parametrize("process", PROCESSES)
def test_every_distribution_rises_within_every_process(name, process):
    share = torch.cat([torch.zeros(1), SHARE[::20], torch.ones(1)]).double()
    times = TIME_DISTRIBUTIONS[name]().quantile(share, PROCESSES[process])
    assert times.isfinite().all()
    assert ((times >= 0) & (times <= 1)).all()
    assert (times.diff() >= 0).all()


class Asked:
    """Remembers the levels of a batch; predicts nothing."""

    num_classes = None

    schedule = FLOW
    parameterization = PredictVelocity()

    def predict(self, noisy, level, label):
        self.times = level.time
        return noisy * 0


@pytest.mark.parametrize("count", [1, 2, 7, 64])
def test_stratified_times_lie_one_in_each_share_of_the_distribution(count):
    """arXiv:2107.00630, appendix I.1; each image still gets any share, so order tells nothing."""
    asked = Asked()
    firsts = set()
    for seed in range(20):
        DenoisingLoss(stratified=True, times=LogitNormalTimes())(asked, torch.zeros(count, 1, 1, 1), None, seed)
        shares = normal_cdf(asked.times.logit())
        assert sorted((shares * count).floor().long().tolist()) == list(range(count))
        firsts.add(int(shares[0] * count))
    assert len(firsts) == 1 if count == 1 else len(firsts) > 1


def test_stratified_or_not_a_time_is_distributed_alike():
    asked = Asked()
    for stratified in (False, True):
        loss = DenoisingLoss(stratified=stratified, times=UniformTimes())
        loss(asked, torch.zeros(20_000, 1, 1, 1), None, seed=1)
        largest_gap = (asked.times.sort().values - SHARE).abs().max()
        assert largest_gap < (2 / 20_000**0.5 if not stratified else 2e-3)  # Kolmogorov-Smirnov; first_time
