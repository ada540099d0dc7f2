"""Sampling stops on NaN or infinity, and reports where and why."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from diffusion_lab import DiffusionSampler
from diffusion_lab.sampling.finite_samples import NonFiniteSamplesError
from tests.sampling.test_sampler import SAMPLER, trained


class Overflowing(nn.Module):
    """A network whose output is infinite or NaN for some images, from one of its calls on."""

    def __init__(self, value, image, call):
        super().__init__()
        self.value, self.image, self.call = value, image, call
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, images, times, labels):
        self.call -= 1
        output = 0.1 * images
        if self.call <= 0:
            output[self.image] = self.value
        return output


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("call", [1, 2, 3])
def test_non_finite_images_stop_with_the_step(value, call):
    """Infinity as well, which clipping would turn into a white pixel."""
    broken = trained()
    broken.network = Overflowing(value, image=2, call=call)
    with pytest.raises(ValueError, match=rf"NaN or infinity at step {call} of 3 in image 7: .* float32, so") as stopped:
        DiffusionSampler(broken).sample(4, sampler=SAMPLER, seed=0, first=5)
    assert isinstance(stopped.value, NonFiniteSamplesError)


def test_non_finite_weights_are_named():
    broken = trained()
    name, weight = list(broken.named_parameters())[3]
    weight.data[0] = float("nan")
    with pytest.raises(
        NonFiniteSamplesError, match=rf"step 1 of 3 in image 0 and 4 more: .*{name}.*another checkpoint"
    ):
        DiffusionSampler(broken).sample(5, sampler=SAMPLER, seed=0)


def test_an_overflow_of_the_precision_says_which_setting_avoids_it():
    broken = trained()
    broken.network = Overflowing(float("inf"), image=0, call=1)
    broken.compute_dtype = torch.bfloat16
    with pytest.raises(NonFiniteSamplesError, match=r"bfloat16 overflowed; set generation\.sampling\.precision=32"):
        DiffusionSampler(broken).sample(1, sampler=SAMPLER, seed=0)


def test_batches_before_a_non_finite_one_are_yielded():
    broken = trained()
    broken.network = Overflowing(float("nan"), image=1, call=4)
    stream = DiffusionSampler(broken).stream(4, sampler=SAMPLER, seed=0, batch_size=2)
    assert bool(next(stream).images.isfinite().all())
    with pytest.raises(NonFiniteSamplesError, match="step 1 of 3 in image 3:"):
        next(stream)


def test_error_holds_the_finite_images():
    """These are images of earlier batches and of its own; they equal those without the failure."""
    broken = trained()
    broken.network = Overflowing(float("nan"), image=1, call=5)
    healthy = trained()
    healthy.network = Overflowing(float("nan"), image=1, call=10**9)
    expected = DiffusionSampler(healthy).sample(7, sampler=SAMPLER, seed=0, batch_size=3)
    with pytest.raises(NonFiniteSamplesError, match="step 2 of 3 in image 4:") as stopped:
        DiffusionSampler(broken).sample(7, sampler=SAMPLER, seed=0, batch_size=3)
    assert stopped.value.indices == (0, 1, 2, 3, 5)
    assert torch.equal(stopped.value.images, expected[[0, 1, 2, 3, 5]])


def test_a_batch_without_any_finite_image_is_not_finished():
    broken = trained()
    broken.network = Overflowing(float("nan"), image=slice(None), call=1)
    with pytest.raises(NonFiniteSamplesError, match="step 1 of 3 in image 0 and 2 more:") as stopped:
        DiffusionSampler(broken).sample(3, sampler=SAMPLER, seed=0)
    assert (stopped.value.indices, stopped.value.images) == ((), None)
    assert broken.network.call == 0  # one pass through the network
