"""The UNet: what it outputs before training, what it depends on, and that all of it learns."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from diffusion_lab.networks import NETWORKS, UNet
from diffusion_lab.networks.blocks import ResidualBlock, SelfAttention


def unet(stages: int = 2, **options) -> UNet:
    defaults = {
        "in_channels": 1,
        "model_channels": 8,
        "channel_multipliers": [1, 2, 2, 3, 1][:stages],
        "use_attention": [index == stages - 1 for index in range(stages)],
        "num_res_blocks": 1,
    }
    torch.manual_seed(0)
    return UNet(**{**defaults, **options})


def awake(network: UNet) -> UNet:
    """The network with its zero layers filled, as after some training."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_an_untrained_network_outputs_zero(channels):
    output = unet(in_channels=channels)(torch.randn(2, channels, 8, 8), torch.rand(2))
    assert output.shape == (2, channels, 8, 8)
    assert (output == 0).all()


@pytest.mark.parametrize("stages", [1, 2, 3, 4, 5])
def test_any_number_of_stages_keeps_the_shape(stages):
    output = awake(unet(stages))(torch.randn(1, 1, 32, 32), torch.rand(1))
    assert output.shape == (1, 1, 32, 32)
    assert output.isfinite().all()


@pytest.mark.parametrize("size", [12, 20, 40])
def test_sizes_that_are_no_power_of_two_work(size):
    assert awake(unet(3))(torch.randn(1, 1, size, size), torch.rand(1)).shape == (1, 1, size, size)


@pytest.mark.parametrize("patch_size", [1, 2, 4])
def test_patches_of_pixels_go_in_and_come_out_in_their_places(patch_size):
    """What the first layer is given comes back as the image when the last layer gives it out again."""
    network = awake(unet(2, patch_size=patch_size, in_channels=3))
    images = torch.randn(2, 3, 16, 16)
    assert network(images, torch.rand(2)).shape == images.shape
    given = []
    network.enter.register_forward_pre_hook(lambda module, arguments: given.append(arguments[0]))
    network.leave.register_forward_hook(lambda module, arguments, output: given[-1])
    assert torch.equal(network(images, torch.rand(2)), images)
    assert given[-1].shape == (2, 3 * patch_size**2, 16 // patch_size, 16 // patch_size)


@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_a_stage_has_the_blocks_asked_for_and_one_more_on_the_way_up(blocks):
    network = awake(unet(2, num_res_blocks=blocks))
    assert count(network, ResidualBlock) == 2 * blocks + 2 + 2 * (blocks + 1)  # down, middle, up
    assert network(torch.randn(1, 1, 8, 8), torch.rand(1)).isfinite().all()


@pytest.mark.parametrize(
    ("flags", "expected"),
    [([False, False, False], 0), ([False, True, False], 1 + 2), ([False, False, True], 1 + 1 + 2)],
)
def test_attention_stands_where_it_is_asked_for(flags, expected):
    """After each block of the stage, down and up; in the middle as in the last stage."""
    assert count(unet(3, use_attention=flags), SelfAttention) == expected


def test_image_time_and_label_each_change_the_output():
    network = awake(unet(num_classes=3))
    image, time, label = torch.randn(1, 1, 8, 8), torch.tensor([0.3]), torch.tensor([1])
    output = network(image, time, label)
    others = (
        network(image + 0.1, time, label),
        network(image, torch.tensor([0.301]), label),
        network(image, time, torch.tensor([2])),
        network(image, time, torch.tensor([3])),  # the "no label" label
    )
    assert all((output - other).abs().max() > 1e-5 for other in others)


def test_each_image_is_treated_by_itself():
    network = awake(unet(3, num_classes=3))
    images, time, label = torch.randn(4, 1, 8, 8), torch.rand(4), torch.tensor([0, 1, 2, 3])
    together = network(images, time, label)
    alone = [network(images[i : i + 1], time[i : i + 1], label[i : i + 1]) for i in range(4)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-5)


def test_one_time_serves_all_images():
    network = awake(unet())
    images = torch.randn(3, 1, 8, 8)
    torch.testing.assert_close(network(images, torch.tensor([0.4])), network(images, torch.full((3,), 0.4)))


def test_every_pixel_can_depend_on_every_other():
    network = awake(unet(2))
    image = torch.zeros(1, 1, 16, 16, requires_grad=True)
    network(image, torch.tensor([0.5]))[0, 0, 0, 0].backward()
    assert (image.grad != 0).all()


def test_gradients_reach_every_parameter_after_a_few_steps():
    """At first the zero layers hold all others back; two steps open them."""
    network = unet(3, num_classes=2)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
    images, time, label = torch.randn(4, 1, 8, 8), torch.rand(4), torch.tensor([0, 1, 2, 2])
    for _ in range(4):
        optimizer.zero_grad()
        functional.mse_loss(network(images, time, label), torch.randn_like(images)).backward()
        optimizer.step()
    still = [name for name, parameter in network.named_parameters() if not parameter.grad.abs().sum() > 0]
    assert not still


def test_dropout_acts_in_training_alone():
    network = awake(unet(dropout=0.5))
    image, time = torch.randn(1, 1, 8, 8), torch.rand(1)
    network.eval()
    assert torch.equal(network(image, time), network(image, time))
    network.train()
    assert not torch.equal(network(image, time), network(image, time))


def test_without_dropout_training_and_evaluation_agree():
    network = awake(unet())
    image, time = torch.randn(1, 1, 8, 8), torch.rand(1)
    assert torch.equal(network.train()(image, time), network.eval()(image, time))


@pytest.mark.parametrize("channels", [1, 2, 3, 5, 20, 31, 32, 40, 96])
def test_any_number_of_channels_that_the_settings_allow_builds(channels):
    network = awake(unet(model_channels=channels))
    assert network(torch.randn(1, 1, 4, 4), torch.rand(1)).isfinite().all()


def test_one_attention_flag_is_needed_for_each_stage():
    with pytest.raises(ValueError, match="shorter"):
        unet(2, use_attention=[True])


def test_the_table_of_networks_builds_what_it_names():
    assert NETWORKS["unet"] is UNet


def test_blocks_begin_as_the_identity():
    images = torch.randn(2, 16, 4, 4)
    assert torch.equal(ResidualBlock(16, 16, 8)(images, torch.randn(2, 8)), images)
    assert torch.equal(SelfAttention(16, 8)(images), images)


def count(network, kind):
    return sum(isinstance(module, kind) for module in network.modules())
