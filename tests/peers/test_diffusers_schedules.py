"""Betas, alpha-bar and weightings against those of diffusers.

diffusers computes in float32: betas agree to 1e-7 as they are. Its product of a thousand factors has lost digits, so
alpha-bar is compared with the product of its betas in float64.
"""

from __future__ import annotations

import pytest
import torch

from diffusion_lab.diffusion.parameterization import PARAMETERIZATIONS
from diffusion_lab.diffusion.schedules import BETA_SCHEDULES, DiscreteSchedule, enforce_zero_terminal_snr
from diffusion_lab.diffusion.weighting import MinSNRWeighting, P2Weighting

pytest.importorskip("diffusers", reason="needs the extra 'peers'")
from diffusers import DDPMScheduler
from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr
from diffusers.training_utils import compute_snr

THEIRS = {"linear": "linear", "quadratic": "scaled_linear", "cosine": "squaredcos_cap_v2", "sigmoid": "sigmoid"}
TIMES = torch.arange(1, 1001).double() / 1000


@pytest.fixture(params=THEIRS)
def pair(request) -> tuple[DiscreteSchedule, DDPMScheduler]:
    ours = DiscreteSchedule(BETA_SCHEDULES[request.param](1000, 1e-4, 0.02))
    return ours, DDPMScheduler(1000, 1e-4, 0.02, beta_schedule=THEIRS[request.param])


def test_every_schedule_has_a_peer():
    assert THEIRS.keys() == BETA_SCHEDULES.keys()


def test_betas_are_theirs(pair):
    ours, theirs = pair
    torch.testing.assert_close(ours.betas, theirs.betas.double(), rtol=0, atol=1e-7)


def test_alpha_bar_is_theirs(pair):
    ours, theirs = pair
    alpha_bar = ours.levels(TIMES).alpha.square()
    torch.testing.assert_close(alpha_bar, (1 - theirs.betas.double()).cumprod(0), rtol=0, atol=1e-7)
    torch.testing.assert_close(alpha_bar, theirs.alphas_cumprod.double(), rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", BETA_SCHEDULES)
def test_betas_without_last_signal_are_theirs(name):
    betas = BETA_SCHEDULES[name](1000, 1e-4, 0.02)
    torch.testing.assert_close(enforce_zero_terminal_snr(betas), rescale_zero_terminal_snr(betas), rtol=0, atol=1e-12)


def test_the_signal_to_noise_ratio_is_theirs(pair):
    ours, theirs = pair
    level = ours.levels(TIMES)
    snr = compute_snr(theirs, torch.arange(1000)).double()
    torch.testing.assert_close((level.alpha / level.sigma) ** 2, snr, rtol=2e-3, atol=0)  # float32: 1 - 0.9999


@pytest.mark.parametrize("gamma", [1.0, 5.0])
@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_min_snr_is_the_recipe_of_their_training_scripts(pair, prediction, gamma):
    """``min(snr, gamma) / snr`` of the noise's error and ``min(snr, gamma) / (snr + 1)`` of the velocity's."""
    ours, theirs = pair
    snr = compute_snr(theirs, torch.arange(1000)).double()
    recipe = snr.clamp(max=gamma) / {"epsilon": snr, "v": snr + 1}[prediction]
    weight = MinSNRWeighting(gamma).output_weight(ours.levels(TIMES), PARAMETERIZATIONS[prediction]())
    torch.testing.assert_close(weight, recipe, rtol=2e-3, atol=0)


def test_p2_is_its_formula_with_their_snr(pair):
    """``1 / (k + snr)^gamma`` of the noise's error (arXiv:2204.00227, equation 8)."""
    ours, theirs = pair
    snr = compute_snr(theirs, torch.arange(1000)).double()
    weight = P2Weighting(gamma=1, k=1).output_weight(ours.levels(TIMES), PARAMETERIZATIONS["epsilon"]())
    torch.testing.assert_close(weight, 1 / (1 + snr), rtol=2e-3, atol=0)
