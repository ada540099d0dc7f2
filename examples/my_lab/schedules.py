import math

import torch
from torch import Tensor

from diffusion_lab.diffusion.level import Level
from diffusion_lab.diffusion.schedules import Schedule
from diffusion_lab.shapes import Times


class TrigFlowSchedule(Schedule):
    """Signal and noise are the cosine and sine of an angle that grows linearly with time (arXiv:2410.11081)."""

    first_time = 1e-3  # the least noisy time of training, where there must be some noise

    def levels(self, times: Times) -> Level[Tensor]:
        times = times.double().cpu()
        angle = math.pi / 2 * times
        return Level(angle.cos(), angle.sin(), times)

    def times(self, log_snr: Tensor) -> Times:
        return torch.exp(-log_snr.double() / 2).atan() / (math.pi / 2)
