"""The running average against that of ema-pytorch, fed with the same weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from diffusion_lab.denoiser import Denoiser
from diffusion_lab.diffusion.parameterization import PredictNoise
from diffusion_lab.diffusion.schedules import DiscreteSchedule, linear_betas
from diffusion_lab.ema import EMA

ema_pytorch = pytest.importorskip("ema_pytorch", reason="needs the extra 'peers'")


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.99, 0.9999])
def test_the_average_is_theirs(decay):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    denoiser = Denoiser(network, DiscreteSchedule(linear_betas(10, 0.01, 0.2)), PredictNoise(), (1, 1, 3))
    ours = EMA(denoiser, decay, warmup=False)
    # min_value = beta leaves no warm-up; before it begins, two updates only copy the weights
    theirs = ema_pytorch.EMA(network, beta=decay, min_value=decay, update_after_step=0, update_every=1)
    theirs.update()
    theirs.update()
    for _ in range(30):
        with torch.no_grad():
            for tensor in (*network.parameters(), *network.buffers()):
                tensor.add_(torch.randn(tensor.shape).to(tensor))
        ours.update(denoiser)
        theirs.update()
    averages = ours.average.network.state_dict()
    for name, tensor in theirs.ema_model.state_dict().items():
        if tensor.is_floating_point():  # counters we copy, they leave them as they were
            torch.testing.assert_close(averages[name], tensor, rtol=1e-5, atol=1e-5)
