"""Contract of all networks: shape, zero before training, dependencies of the output, and gradients."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from diffusion_lab.config.model_section import NETWORKS, ArchitectureSettings
from diffusion_lab.networks.blocks import Recomputable
from tests.networks.small_networks import SMALL, with_random_outputs


@pytest.fixture(params=SMALL)
def small(request: pytest.FixtureRequest):
    """Builds a small network."""
    return SMALL[request.param]


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_an_untrained_network_outputs_zero(small, channels):
    output = small(in_channels=channels)(torch.randn(2, channels, 8, 8), torch.rand(2))
    assert output.shape == (2, channels, 8, 8)
    assert (output == 0).all()


@pytest.mark.parametrize("patch_size", [1, 2, 4])
def test_patches_keep_their_positions(small, patch_size):
    """If the last layer returns the input of the first one, the output is the image."""
    network = with_random_outputs(small(patch_size=patch_size, in_channels=3))
    images = torch.randn(2, 3, 16, 16)
    assert network(images, torch.rand(2)).shape == images.shape
    given = []
    network.enter.register_forward_pre_hook(lambda module, arguments: given.append(arguments[0]))
    network.leave.register_forward_hook(lambda module, arguments, output: given[-1])
    assert torch.equal(network(images, torch.rand(2)), images)
    assert given[-1].shape == (2, 3 * patch_size**2, 16 // patch_size, 16 // patch_size)


def test_image_time_and_label_each_change_the_output(small):
    network = with_random_outputs(small(num_classes=3))
    image, time, label = torch.randn(1, 1, 8, 8), torch.tensor([0.3]), torch.tensor([1])
    output = network(image, time, label)
    others = (
        network(image + 0.1, time, label),
        network(image, torch.tensor([0.301]), label),
        network(image, time, torch.tensor([2])),
        network(image, time, torch.tensor([3])),  # the "no label" label
    )
    assert all((output - other).abs().max() > 1e-5 for other in others)


def test_images_are_independent(small):
    network = with_random_outputs(small(num_classes=3))
    images, time, label = torch.randn(4, 1, 8, 8), torch.rand(4), torch.tensor([0, 1, 2, 3])
    together = network(images, time, label)
    alone = [network(images[i : i + 1], time[i : i + 1], label[i : i + 1]) for i in range(4)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-5)


def test_one_time_serves_all_images(small):
    network = with_random_outputs(small())
    images = torch.randn(3, 1, 8, 8)
    torch.testing.assert_close(network(images, torch.tensor([0.4])), network(images, torch.full((3,), 0.4)))


def test_every_pixel_can_depend_on_every_other(small):
    network = with_random_outputs(small())
    image = torch.zeros(1, 1, 16, 16, requires_grad=True)
    network(image, torch.tensor([0.5]))[0, 0, 0, 0].backward()
    assert (image.grad != 0).all()


def test_gradients_reach_every_parameter_after_a_few_steps(small):
    """At first the zero layers hold all others back; two steps open them."""
    network = small(num_classes=2)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
    images, time, label = torch.randn(4, 1, 8, 8), torch.rand(4), torch.tensor([0, 1, 2, 2])
    for _ in range(4):
        optimizer.zero_grad()
        functional.mse_loss(network(images, time, label), torch.randn_like(images)).backward()
        optimizer.step()
    still = [name for name, parameter in network.named_parameters() if not parameter.grad.abs().sum() > 0]
    assert not still


def test_dropout_acts_only_in_training(small):
    network = with_random_outputs(small(dropout=0.5))
    image, time = torch.randn(1, 1, 8, 8), torch.rand(1)
    network.eval()
    assert torch.equal(network(image, time), network(image, time))
    network.train()
    assert not torch.equal(network(image, time), network(image, time))


def test_without_dropout_training_and_evaluation_agree(small):
    network = with_random_outputs(small())
    image, time = torch.randn(1, 1, 8, 8), torch.rand(1)
    assert torch.equal(network.train()(image, time), network.eval()(image, time))


def test_table_of_networks_creates_the_named_classes():
    assert {name: type(small()) for name, small in SMALL.items()} == {
        name: ArchitectureSettings.class_of(name) for name in NETWORKS
    }


def test_memory_layout_does_not_change_the_result(small):
    network = with_random_outputs(small(in_channels=3))
    images, time = torch.randn(2, 3, 8, 8), torch.rand(2)
    expected = network(images, time)
    network.to(memory_format=torch.channels_last)
    for layout in (torch.contiguous_format, torch.channels_last):
        output = network(images.to(memory_format=layout), time)
        torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_close_for_weights_and_autocast(small, dtype):
    """At time 1 the fastest wave has made 159 turns: a rounded angle would be off by full turns."""
    network = with_random_outputs(small(num_classes=2))
    images, time, label = torch.randn(4, 1, 8, 8), torch.tensor([0.01, 0.3, 0.77, 1.0]), torch.tensor([0, 1, 2, 2])
    expected = network(images, time, label)
    with torch.autocast("cpu", dtype):
        mixed = network(images, time, label)
    halved = network.to(dtype)(images.to(dtype), time, label)
    assert halved.dtype == dtype
    for output in (mixed, halved):
        assert (output.float() - expected).norm() < 5 * torch.finfo(dtype).eps * expected.norm()


@pytest.mark.parametrize("mixed", [False, True])
def test_without_gradients_the_output_is_equal_and_inputs_unchanged(small, mixed):
    """Memory is used again where no gradient needs it."""
    network = with_random_outputs(small(num_classes=2))
    images, time, label = torch.randn(3, 1, 8, 8), torch.rand(3), torch.tensor([0, 1, 2])
    given = images.clone()
    blocks = []
    for module in network.modules():
        if isinstance(module, Recomputable):
            module.register_forward_hook(
                lambda module, inputs, output: blocks.append((output, output.detach().clone()))
            )
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        expected = network(images, time, label)
        blocks.clear()
        with torch.no_grad():
            found = network(images, time, label)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert torch.equal(images, given)
    assert blocks
    assert all(torch.equal(output, as_it_was) for output, as_it_was in blocks)  # nobody wrote into a block's output
