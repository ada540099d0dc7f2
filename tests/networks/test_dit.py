"""DiT: blocks against the formula, positions of tokens, and refused options."""

from __future__ import annotations

import math
import re

import pytest
import torch
from torch.nn import functional

from diffusion_lab.networks import dit as module
from diffusion_lab.networks.dit import TransformerBlock, grid_position_embedding
from tests.networks.small_networks import count, dit, with_random_outputs


def test_block_is_modulated_attention_and_mlp():
    """arXiv:2212.09748, figure 3: x + α₁ · attention(γ₁ · norm(x) + β₁), then the same with the layers."""
    block = with_random_outputs(TransformerBlock(8, heads=2))
    tokens, embedding = torch.randn(2, 5, 8), torch.randn(2, 8)

    def norm(values):
        centred = values - values.mean(dim=2, keepdim=True)
        return centred / (centred.square().mean(dim=2, keepdim=True) + 1e-6).sqrt()

    given = block.modulate(functional.silu(embedding)).view(2, 6, 1, 8).unbind(1)
    queries, keys, values = block.queries_keys_values((1 + given[1]) * norm(tokens) + given[0]).chunk(3, dim=2)
    heads = []
    for start in (0, 4):
        q, k, v = (part[:, :, start : start + 4] for part in (queries, keys, values))
        heads.append((q @ k.transpose(1, 2) / 4**0.5).softmax(dim=2) @ v)
    expected = tokens + given[2] * block.project(torch.cat(heads, dim=2))
    first, second = block.layers[0], block.layers[2]
    hidden = first((1 + given[4]) * norm(expected) + given[3])
    hidden = 0.5 * hidden * (1 + (math.sqrt(2 / math.pi) * (hidden + 0.044715 * hidden**3)).tanh())
    expected = expected + given[5] * second(hidden)
    torch.testing.assert_close(block(tokens, embedding), expected, rtol=1e-4, atol=1e-5)


def test_blocks_begin_as_the_identity():
    tokens = torch.randn(2, 5, 16)
    assert torch.equal(TransformerBlock(16, 2)(tokens, torch.randn(2, 16)), tokens)


@pytest.mark.parametrize("blocks", [1, 3])
def test_number_and_width_of_blocks_follow_the_options(blocks):
    network = dit(depth=blocks, hidden_size=24)
    assert count(network, TransformerBlock) == blocks
    assert all(block.project.in_features == 24 for block in network.blocks)


@pytest.mark.parametrize("size", [(2, 2), (6, 10), (14, 4), (32, 32)])
def test_any_size_divisible_by_the_patch_works(size):
    output = with_random_outputs(dit(patch_size=2))(torch.randn(1, 1, *size), torch.rand(1))
    assert output.shape == (1, 1, *size)
    assert output.isfinite().all()


def test_position_embedding_is_that_of_row_and_column():
    waves = grid_position_embedding(3, 5, 8, torch.device("cpu")).view(3, 5, 8)
    row, column = 2, 4
    angles = [[place / 10_000 ** (index / 2) for index in range(2)] for place in (row, column)]
    expected = [turn(angle) for along in angles for turn in (math.cos, math.sin) for angle in along]
    torch.testing.assert_close(waves[row, column], torch.tensor(expected))


def test_positions_of_a_large_grid_are_distinct():
    waves = grid_position_embedding(24, 40, 64, torch.device("cpu"))
    distances = torch.cdist(waves, waves) + 10 * torch.eye(len(waves))
    assert distances.min() > 0.5


def permuted(images: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    return images.flatten(2)[:, :, order].view_as(images)


@pytest.mark.parametrize("with_positions", [True, False])
def test_only_the_position_embedding_distinguishes_tokens(monkeypatch, with_positions):
    """Without them the pixels of an image can be put in any order, and the output comes in the same order."""
    if not with_positions:
        monkeypatch.setattr(module, "grid_position_embedding", lambda *given: 0 * grid_position_embedding(*given))
    network, order = with_random_outputs(dit()), torch.randperm(16)
    images, time = torch.randn(2, 1, 4, 4), torch.rand(2)
    moved = network(permuted(images, order), time)
    same = torch.allclose(moved, permuted(network(images, time), order), rtol=1e-4, atol=1e-5)
    assert same != with_positions


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_size": 18}, "hidden_size must be divisible by 4 for a DiT, got 18"),
        ({"num_heads": 3}, "num_heads must divide hidden_size, 16, got 3"),
    ],
)
def test_widths_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        dit(**options)


def test_the_hidden_layer_of_the_mlp_follows_the_ratio():
    assert dit(mlp_ratio=1.5).blocks[0].layers[0].out_features == 24
