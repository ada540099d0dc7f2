"""UNet: stages, blocks and attention follow the options."""

from __future__ import annotations

import pytest
import torch

from diffusion_lab.networks.blocks import ResidualBlock, SelfAttention
from tests.networks.small_networks import count, unet, with_random_outputs


@pytest.mark.parametrize("stages", [1, 2, 3, 4, 5])
def test_any_number_of_stages_keeps_the_shape(stages):
    output = with_random_outputs(unet(stages))(torch.randn(1, 1, 32, 32), torch.rand(1))
    assert output.shape == (1, 1, 32, 32)
    assert output.isfinite().all()


@pytest.mark.parametrize("size", [12, 20, 40])
def test_sizes_that_are_not_powers_of_two_work(size):
    assert with_random_outputs(unet(3))(torch.randn(1, 1, size, size), torch.rand(1)).shape == (1, 1, size, size)


@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_number_of_blocks_per_stage_follows_the_options(blocks):
    network = with_random_outputs(unet(2, num_res_blocks=blocks))
    assert count(network, ResidualBlock) == 2 * blocks + 2 + 2 * (blocks + 1)  # down, middle, up
    assert network(torch.randn(1, 1, 8, 8), torch.rand(1)).isfinite().all()


@pytest.mark.parametrize(
    ("flags", "expected"),
    [([False, False, False], 0), ([False, True, False], 1 + 2), ([False, False, True], 1 + 1 + 2)],
)
def test_attention_follows_the_flags(flags, expected):
    """Attention follows each block of the stage, down and up; the middle is like the last stage."""
    assert count(unet(3, use_attention=flags), SelfAttention) == expected


@pytest.mark.parametrize("channels", [1, 2, 3, 5, 20, 31, 32, 40, 96])
def test_all_allowed_numbers_of_channels_work(channels):
    network = with_random_outputs(unet(model_channels=channels))
    assert network(torch.randn(1, 1, 4, 4), torch.rand(1)).isfinite().all()


def test_one_attention_flag_is_needed_for_each_stage():
    with pytest.raises(ValueError, match="shorter"):
        unet(2, use_attention=[True])


def test_blocks_begin_as_the_identity():
    images = torch.randn(2, 16, 4, 4)
    assert torch.equal(ResidualBlock(16, 16, 8)(images, torch.randn(2, 8)), images)
    assert torch.equal(SelfAttention(16, 8)(images), images)
