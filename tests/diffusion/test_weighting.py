"""Weightings against the formulas of their papers, and the identity by which they fit every parameterization."""

from __future__ import annotations

import pytest
import torch

from diffusion_lab.diffusion.level import Level
from diffusion_lab.diffusion.parameterization import PARAMETERIZATIONS, PreconditionedOutput
from diffusion_lab.diffusion.penalty import PENALTIES
from diffusion_lab.diffusion.weighting import (
    WEIGHTINGS,
    CleanWeighting,
    EDMWeighting,
    MinSNRWeighting,
    P2Weighting,
    SigmoidWeighting,
    UniformWeighting,
)

ANGLE = torch.linspace(0.01, 1.56, 50, dtype=torch.float64)
LEVEL = Level(ANGLE.cos(), ANGLE.sin(), ANGLE)
SNR = ANGLE.tan() ** -2
EPSILON, VELOCITY, CLEAN = (PARAMETERIZATIONS[name]() for name in ("epsilon", "v", "x0"))


@pytest.mark.parametrize("gamma", [0.5, 5.0])
def test_min_snr_in_each_parameterization(gamma):
    """arXiv:2303.09556, section 3.4: min(snr, gamma) of x0, over snr of the noise, over snr + 1 of v."""
    least = SNR.clamp(max=gamma)
    weighting = MinSNRWeighting(gamma)
    torch.testing.assert_close(weighting.output_weight(LEVEL, CLEAN), least)
    torch.testing.assert_close(weighting.output_weight(LEVEL, EPSILON), least / SNR)
    torch.testing.assert_close(weighting.output_weight(LEVEL, VELOCITY), least / (SNR + 1))


def test_p2_of_the_noise():
    """arXiv:2204.00227, equation 8: 1 / (k + snr)^gamma."""
    torch.testing.assert_close(P2Weighting(gamma=0.7, k=2).output_weight(LEVEL, EPSILON), (2 + SNR) ** -0.7)
    torch.testing.assert_close(P2Weighting(gamma=0).output_weight(LEVEL, EPSILON), torch.ones_like(SNR))


def test_sigmoid_of_the_noise():
    """arXiv:2410.19324, section 3: sigmoid(b - log snr)."""
    torch.testing.assert_close(SigmoidWeighting(bias=-1).output_weight(LEVEL, EPSILON), (-1 - SNR.log()).sigmoid())


def test_edm_weighs_its_own_output_alike_and_clean_images_by_the_paper():
    """arXiv:2206.00364, table 1: (sigma² + sigma_data²) / (sigma sigma_data)² makes it 1 / c_out²."""
    torch.testing.assert_close(EDMWeighting(0.4).output_weight(LEVEL, PreconditionedOutput(0.4)), torch.ones_like(SNR))
    sigma = torch.tensor([0.002, 1.0, 80.0], dtype=torch.float64)
    weight = EDMWeighting(0.5).output_weight(Level(torch.ones_like(sigma), sigma, sigma), CLEAN)
    torch.testing.assert_close(weight, (sigma**2 + 0.25) / (0.5 * sigma) ** 2)


@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
def test_uniform_is_one_of_every_output(parameterization):
    weight = UniformWeighting().output_weight(LEVEL, PARAMETERIZATIONS[parameterization]())
    assert (weight == 1).all()


def test_edm_without_a_measured_deviation_takes_that_of_the_paper():
    assert torch.equal(EDMWeighting().clean_weight(LEVEL), EDMWeighting(0.5).clean_weight(LEVEL))


@pytest.mark.parametrize(("penalty", "power"), [("mse", 2), ("l1", 1)])
@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
@pytest.mark.parametrize("name", sorted(name for name, kind in WEIGHTINGS.items() if issubclass(kind, CleanWeighting)))
def test_the_loss_is_one_number_in_every_parameterization(name, parameterization, penalty, power):
    """Of one and the same clean estimate: the output that gives it errs by the estimate's error, divided by ``out``."""
    weighting, parameterization = WEIGHTINGS[name](), PARAMETERIZATIONS[parameterization]()
    penalty = PENALTIES[penalty]()
    generator = torch.Generator().manual_seed(0)
    clean, noise, estimate = torch.randn(3, len(ANGLE), generator=generator, dtype=torch.float64)
    noisy = LEVEL.alpha * clean + LEVEL.sigma * noise
    of = parameterization.coefficients(LEVEL)
    output = (estimate - of.c_skip * noisy) / of.c_out
    clean_share, noise_share = parameterization.target(LEVEL)
    error = penalty(output, clean_share * clean + noise_share * noise)
    in_output = weighting.penalty_weight(LEVEL, parameterization, penalty.degree) * error
    in_clean = weighting.clean_weight(LEVEL) * (estimate - clean).abs() ** power
    torch.testing.assert_close(in_output, in_clean, rtol=1e-6, atol=0)


def test_a_large_error_counts_in_the_power_that_its_penalty_says():
    """So that a weight of the clean image's error is that of an output's error, for which it is divided by ``out``."""
    zero, error = torch.zeros(1), torch.tensor([1e4])
    for penalty in (kind() for kind in PENALTIES.values()):
        growth = (penalty(2 * error, zero) / penalty(error, zero)).item()
        assert growth == pytest.approx(2**penalty.degree, rel=1e-3)
