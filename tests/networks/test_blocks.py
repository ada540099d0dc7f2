"""The blocks against their formulas."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from diffusion_lab.networks.blocks import ResidualBlock, SelfAttention, TimeEmbedding, group_norm


def waves_of(embedding: TimeEmbedding, time: torch.Tensor) -> torch.Tensor:
    """Return the input of the layers of the embedding."""
    given = []
    embedding.layers.register_forward_pre_hook(lambda module, arguments: given.append(arguments[0]))
    embedding(time)
    return given[0]


def test_time_is_embedded_as_cosines_and_sines_of_a_thousand_steps():
    step = 137.0
    angles = [step * 10_000 ** (-index / 4) for index in range(4)]
    expected = [math.cos(angle) for angle in angles] + [math.sin(angle) for angle in angles]
    torch.testing.assert_close(
        waves_of(TimeEmbedding(8, 5), torch.tensor([step / 1000]))[0], torch.tensor(expected), atol=1e-4, rtol=0
    )


def test_adjacent_times_are_distinct():
    times = waves_of(TimeEmbedding(32, 64), torch.arange(1001).double() / 1000)
    distances = torch.cdist(times, times) + 10 * torch.eye(1001)
    assert distances.min() > 0.1


@pytest.mark.parametrize("channels", [8, 32, 40, 48, 64, 72, 96, 120, 256, 1, 7])
def test_groups_divide_the_channels_evenly(channels):
    norm = group_norm(channels)
    assert channels % norm.num_groups == 0
    assert norm.num_groups <= 32
    assert channels // norm.num_groups >= min(channels, 4)
    if channels % 8 == 0:
        assert norm.num_groups >= min(channels // 4, 18)


@pytest.mark.parametrize("channels", range(8, 513, 8))
def test_head_has_32_to_64_channels_or_all(channels):
    heads = SelfAttention(channels, head_channels=32).heads
    per_head = channels // heads
    assert per_head * heads == channels
    assert 32 <= per_head <= 64 or per_head == channels < 32


@pytest.mark.parametrize(("channels", "head_channels", "heads"), [(16, 4, 4), (48, 64, 1), (24, 7, 3), (64, 64, 1)])
def test_heads_divide_the_channels_evenly(channels, head_channels, heads):
    assert SelfAttention(channels, head_channels).heads == heads


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_attention_is_softmax_of_scaled_products(layout):
    """arXiv:1706.03762, equation 1, head by head in plain matrices."""
    torch.manual_seed(0)
    attention = SelfAttention(8, head_channels=4)
    torch.nn.init.normal_(attention.project.weight, std=0.3)
    images = torch.randn(2, 8, 3, 5).to(memory_format=layout)

    flat = attention.queries_keys_values(attention.norm(images)).flatten(2)  # (N, 3C, H·W)
    queries, keys, values = flat.chunk(3, dim=1)
    heads = []
    for start in (0, 4):
        q, k, v = (part[:, start : start + 4] for part in (queries, keys, values))
        weights = (q.transpose(1, 2) @ k / 4**0.5).softmax(dim=-1)
        heads.append((weights @ v.transpose(1, 2)).transpose(1, 2))
    expected = images + attention.project(torch.cat(heads, dim=1).view(2, 8, 3, 5))
    torch.testing.assert_close(attention(images), expected, rtol=1e-4, atol=1e-5)


def test_the_embedding_scales_and_shifts_between_the_convolutions():
    """arXiv:2105.05233, equation 3: AdaGN(h, y) = y_s · GroupNorm(h) + y_b, the scale counted from one."""
    torch.manual_seed(0)
    block = ResidualBlock(4, 6, 3)
    torch.nn.init.normal_(block.conv_out.weight, std=0.3)
    images, embedding = torch.randn(2, 4, 5, 5), torch.randn(2, 3)

    hidden = block.norm_out(block.conv_in(functional.silu(block.norm_in(images))))
    given = block.embed(functional.silu(embedding))
    scale, shift = given[:, :6, None, None], given[:, 6:, None, None]
    expected = block.skip(images) + block.conv_out(functional.silu((1 + scale) * hidden + shift))
    torch.testing.assert_close(block(images, embedding), expected)
