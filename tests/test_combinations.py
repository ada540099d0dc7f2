"""Every process with every prediction and every sampler: images come out, or the reason why not."""

from __future__ import annotations

import pytest
import torch

from diffusion_lab.config.model_section import PROCESSES
from diffusion_lab.create import create_ddpm
from diffusion_lab.denoiser import Denoiser
from diffusion_lab.diffusion.loss import DenoisingLoss
from diffusion_lab.diffusion.parameterization import PARAMETERIZATIONS
from diffusion_lab.diffusion.penalty import PENALTIES
from diffusion_lab.diffusion.time_distribution import TIME_DISTRIBUTIONS
from diffusion_lab.diffusion.weighting import WEIGHTINGS
from diffusion_lab.samplers import SAMPLERS
from diffusion_lab.samplers.spacing import SPACINGS
from diffusion_lab.sampling import DiffusionSampler

NOTHING_LEFT = {("flow", "epsilon"), ("zero_terminal_snr", "epsilon")}
"""Processes without signal at the last step, where a noise prediction does not determine the image."""


def tiny(process: str, prediction: str) -> Denoiser:
    zero = process == "zero_terminal_snr"
    torch.manual_seed(0)
    model = create_ddpm(
        image_size=4,
        in_channels=1,
        model_channels=4,
        channel_multipliers=[1],
        use_attention=[True],
        num_res_blocks=1,
        num_timesteps=50,
        num_classes=2,
        diffusion_type="discrete" if zero else process,
        zero_terminal_snr=zero,
        prediction=prediction,
        sigma_data=0.5,
    )
    for weight in model.parameters():  # a fresh network puts out zeros, with which much goes well
        torch.nn.init.normal_(weight, std=0.2)
    return model


@pytest.mark.parametrize("prediction", PARAMETERIZATIONS)
@pytest.mark.parametrize("process", [*PROCESSES, "zero_terminal_snr"])
def test_each_combination_trains_and_samples_or_is_refused(process: str, prediction: str) -> None:
    if (process, prediction) in NOTHING_LEFT:
        with pytest.raises(ValueError, match=r"prediction epsilon needs some of the image left"):
            tiny(process, prediction)
        return
    model = tiny(process, prediction)
    clean, labels = torch.rand(8, 1, 4, 4) * 2 - 1, torch.tensor([0, 1] * 4)
    for weighting in WEIGHTINGS.values():
        for times in TIME_DISTRIBUTIONS.values():
            loss = DenoisingLoss(weighting=weighting(), times=times())(model, clean, labels, seed=1)
            assert loss.isfinite(), (weighting, times)
    for penalty in PENALTIES.values():
        DenoisingLoss(penalty=penalty())(model, clean, labels, seed=1).backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in model.parameters())
    for cls in SAMPLERS.values():
        for spacing in SPACINGS:
            images = DiffusionSampler(model).sample(2, [0, 1], 2.0, sampler=cls(steps=6, spacing=spacing), seed=0)
            assert images.isfinite().all(), (cls, spacing)
            assert images.abs().max() <= 1
