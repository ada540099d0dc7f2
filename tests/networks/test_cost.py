"""Parameters and operations against counts by hand and against those of the DiT paper."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from diffusion_lab.networks import DiT
from diffusion_lab.networks.blocks import SelfAttention
from diffusion_lab.networks.cost import count_parameters, forward_flops
from tests.networks.small_networks import SMALL, unet, with_random_outputs


class UnconditionalLayers(nn.Module):
    """Layers that know no time and no label."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, images, time, label):
        return self.layers(images)


def test_a_convolution_and_a_linear_layer():
    network = UnconditionalLayers(
        nn.Conv2d(3, 5, 3, stride=2, padding=1), nn.SiLU(), nn.Flatten(), nn.Linear(5 * 4 * 6, 7)
    )
    convolution = 4 * 6 * 5 * 3 * 3 * 3  # each output pixel and channel, each weight of it
    linear = 5 * 4 * 6 * 7
    assert forward_flops(network, (3, 8, 12)) == 2 * (convolution + linear)
    assert count_parameters(network) == (5 * 3 * 3 * 3 + 5) + (5 * 4 * 6 * 7 + 7)


@pytest.mark.parametrize("head_channels", [4, 8])
def test_attention(head_channels):
    """Queries with keys and weights with values: a product of L·L·C each, however many heads."""
    positions, channels = 4 * 6, 8
    layers = positions * (channels * 3 * channels + channels * channels)
    products = 2 * positions * positions * channels
    assert forward_flops(UnconditionalLayers(SelfAttention(8, head_channels)), (8, 4, 6)) == 2 * (layers + products)


@pytest.mark.parametrize("num_classes", [None, 3])
def test_a_unet_of_one_stage(num_classes):
    width, embedding, pixels = 8, 32, 8 * 8

    def block(channels):
        skip = 0 if channels == width else channels * width
        return pixels * (9 * channels * width + 9 * width * width + skip) + embedding * 2 * width

    attention = pixels * 4 * width * width + 2 * pixels * pixels * width
    by_hand = width * embedding + embedding**2  # the time
    by_hand += pixels * 9 * 3 * width * 2  # the first and the last convolution
    by_hand += block(width) + attention  # down
    by_hand += 2 * block(width) + attention  # middle
    by_hand += 2 * (block(2 * width) + attention)  # up
    network = unet(1, in_channels=3, num_classes=num_classes)
    assert forward_flops(network, (3, 8, 8), num_classes) == 2 * by_hand


@pytest.mark.parametrize(
    ("channels", "blocks", "heads", "millions", "giga"),
    [(384, 12, 6, 33, 6.06), (768, 12, 12, 130, 23.01), (1024, 24, 16, 458, 80.71), (1152, 28, 16, 675, 118.64)],
)
def test_dit_cost_is_as_published(channels, blocks, heads, millions, giga):
    """arXiv:2212.09748, table 4: S/2, B/2, L/2, XL/2 on latents of 4×32×32, a multiplication and addition counted once.

    Theirs puts out 8 channels, variances with the noise, which is less than a thousandth of the work.
    """
    with torch.device("meta"):
        network = DiT(4, channels, blocks, heads, 1000, patch_size=2)
    assert count_parameters(network) / 1e6 == pytest.approx(millions, abs=0.5)
    assert forward_flops(network, (4, 32, 32), 1000) / 2e9 == pytest.approx(giga, rel=2e-3)


@pytest.mark.parametrize("name", SMALL)
def test_counting_does_not_change_the_network_or_random_state(name):
    network = with_random_outputs(SMALL[name](num_classes=2, dropout=0.5))
    before, drawn = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    calls = []
    network.enter.register_forward_hook(lambda module, given, output: calls.append(output.device.type))
    forward_flops(network, (1, 8, 8), 2)
    assert calls == ["meta"]  # nothing was computed
    assert network.training
    assert torch.equal(torch.get_rng_state(), drawn)
    after = network.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_a_compiled_network_is_counted_without_compiling():
    network, compiled = unet(), unet()
    compiled.compile(backend=lambda graph, inputs: pytest.fail("was compiled"))
    assert forward_flops(compiled, (1, 8, 8)) == forward_flops(network, (1, 8, 8))
    assert compiled._compiled_call_impl is not None


def test_network_that_reads_values_cannot_be_counted():
    class Looking(UnconditionalLayers):
        def forward(self, images, time, label):
            return self.layers(images) * float(time[0])

    with pytest.raises(RuntimeError):
        forward_flops(Looking(nn.Conv2d(1, 1, 1)), (1, 8, 8))
