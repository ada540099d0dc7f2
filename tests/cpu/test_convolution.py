"""Winograd convolutions against torch's: values, gradients and unsupported cases."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional

from diffusion_lab.cpu import convolution
from diffusion_lab.cpu.convolution import Conv3x3, cache_filters, disable_winograd
from diffusion_lab.create import create_ddpm

ROUNDING = 2e-4
"""Tolerance for values of standard deviation about 1."""


def layer(channels: int = 128, out_channels: int = 112) -> Conv3x3:
    torch.manual_seed(0)
    return Conv3x3(channels, out_channels)


def images(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def winograd_enabled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use tiles whatever the processor."""
    monkeypatch.setattr(convolution, "_winograd_enabled", True)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """The shapes that are convolved in tiles."""
    seen: list[torch.Size] = []
    plain = convolution._convolve

    def watched(given: Tensor, *further: Tensor | None) -> Tensor:
        seen.append(given.shape)
        return plain(given, *further)

    monkeypatch.setattr(convolution, "_convolve", watched)
    return seen


@pytest.mark.parametrize("shape", [(16, 8, 8), (5, 16, 16), (4, 8, 32), (1, 32, 32), (2, 64, 64)])
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_output_and_gradients_are_those_of_torch_in_double_precision(shape, memory, calls):
    batch, height, width = shape
    conv, given = layer(), images(batch, 128, height, width).to(memory_format=memory).requires_grad_()
    output = conv(given)
    weights = images(*output.shape)
    found = [output, *torch.autograd.grad((output * weights).sum(), [given, conv.weight, conv.bias])]
    assert len(calls) == 2  # there, and back to the images
    exact = copy.deepcopy(conv).double(), given.detach().double().requires_grad_()
    true = functional.conv2d(exact[1], exact[0].weight, exact[0].bias, padding=1)
    truth = [true, *torch.autograd.grad((true * weights).sum(), [exact[1], exact[0].weight, exact[0].bias])]
    for ours, theirs in zip(found, truth, strict=True):
        assert ours.shape == theirs.shape
        assert (ours - theirs).abs().max() < ROUNDING * theirs.std()


def test_transforms_compute_the_convolution_of_a_line():
    """F(4, 3) is exact: four numbers of a line's correlation with a filter of three."""
    line, filter_ = torch.randn(2, 6, dtype=torch.float64).unbind()
    direct = (line.unfold(0, 3, 1) * filter_[:3]).sum(1)
    products = (convolution.FILTER_TRANSFORM.double() @ filter_[:3]) * (convolution.TILE_TRANSFORM.double() @ line)
    torch.testing.assert_close(convolution.OUTPUT_TRANSFORM.double() @ products, direct, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("conv", "shape"),
    [
        (layer(64, 64), (64, 64, 32, 32)),  # few channels: the images' change of basis costs what is gained
        (layer(), (16, 128, 10, 8)),  # not in tiles
        (layer(), (8, 128, 8, 8)),  # few pixels: the filters' change of basis costs it
        (layer().double(), (16, 128, 8, 8)),
        (layer().bfloat16(), (16, 128, 8, 8)),
    ],
    ids=["few channels", "sides", "few pixels", "float64", "bfloat16"],
)
def test_small_inputs_use_direct_convolution(conv, shape, calls):
    given = images(*shape).to(conv.weight.dtype)
    assert torch.equal(conv(given), functional.conv2d(given, conv.weight, conv.bias, padding=1))
    assert not calls


def test_autocast_compilers_and_requests_use_direct_convolution(calls):
    conv, given = layer(), images(16, 128, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert conv(given).dtype == torch.bfloat16
    expected = functional.conv2d(given, conv.weight, conv.bias, padding=1)
    assert torch.equal(torch.compile(conv, backend="eager")(given), expected)
    with disable_winograd():
        assert torch.equal(conv(given), expected)
    assert not calls
    assert not torch.equal(conv(given), expected)
    assert calls


@pytest.mark.parametrize(("instructions", "in_tiles"), [("AVX2", True), ("AVX512", False), ("DEFAULT", False)])
def test_tiles_are_for_processors_with_avx2_alone(instructions, in_tiles):
    """With AVX-512 direct convolutions are as fast or faster."""
    program = (
        "import torch; torch.backends.cpu.get_cpu_capability = lambda: %r\n"
        "from diffusion_lab.cpu.convolution import Conv3x3\n"
        "print(Conv3x3(128, 128)._use_winograd(torch.zeros(16, 128, 8, 8)))"
    )
    output = subprocess.run([sys.executable, "-c", program % instructions], capture_output=True, text=True, check=True)
    assert output.stdout.strip() == str(in_tiles)


def test_only_requested_gradients_are_computed(monkeypatch):
    conv, given = layer().requires_grad_(False), images(16, 128, 8, 8).requires_grad_()
    monkeypatch.setattr(convolution, "_weight_gradient", None)
    (gradient,) = torch.autograd.grad(conv(given).sum(), [given])
    assert gradient.shape == given.shape


def test_second_derivatives_equal_those_of_torch():
    conv, given = layer(), images(16, 128, 8, 8).requires_grad_()

    def second_order() -> list[Tensor]:
        of_images, of_weight = torch.autograd.grad(conv(given).square().sum(), [given, conv.weight], create_graph=True)
        return list(torch.autograd.grad(of_images.square().mean() + of_weight.square().mean(), [given, conv.weight]))

    found = second_order()
    with disable_winograd():
        expected = second_order()
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours - theirs).abs().max() < 5 * ROUNDING * theirs.std()


def test_forward_mode_and_vmap_equal_those_of_torch():
    conv, given, along = layer(), images(16, 128, 8, 8), images(2, 16, 128, 8, 8)[1]
    with disable_winograd():
        expected = torch.func.jvp(conv, (given,), (along,))
        mapped = torch.func.vmap(conv)(given[:, None])
    for ours, theirs in zip(torch.func.jvp(conv, (given,), (along,)), expected, strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(torch.func.vmap(conv)(given[:, None]), mapped)
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(conv(forward_ad.make_dual(given, along))).tangent
    torch.testing.assert_close(tangent, expected[1])


class TestCachedFilters:
    def test_filters_are_transformed_once_and_released(self, monkeypatch):
        conv, given, count = layer(), images(16, 128, 8, 8), 0
        plain = convolution._transform_filters

        def counted(weight: Tensor) -> Tensor:
            nonlocal count
            count += 1
            return plain(weight)

        monkeypatch.setattr(convolution, "_transform_filters", counted)
        with torch.no_grad():
            before = conv(given)
            with cache_filters(conv):
                with cache_filters(conv):
                    assert torch.equal(conv(given), before)
                assert torch.equal(conv(given), before)
                assert count == 2
            conv.weight.mul_(2)
            assert conv.filters is None
            torch.testing.assert_close(conv(given) - conv.bias[:, None, None], 2 * (before - conv.bias[:, None, None]))

    def test_image_does_not_depend_on_the_batch(self):
        """One is too few for tiles elsewhere: it would be rounded in another way."""
        conv, given = layer(), images(16, 128, 8, 8)
        with torch.no_grad(), cache_filters(conv):
            alone = torch.cat([conv(image[None]) for image in given])
            torch.testing.assert_close(alone, conv(given), rtol=0, atol=5e-6)

    def test_sampling_caches_filters(self, calls):
        from diffusion_lab import DiffusionSampler
        from diffusion_lab.samplers import DDIMSampler

        torch.manual_seed(0)
        model = create_ddpm(
            image_size=8, model_channels=128, channel_multipliers=[1], use_attention=[False], num_res_blocks=1
        )
        names = set(model.state_dict())
        few, many = (
            DiffusionSampler(model).sample(9, sampler=DDIMSampler(steps=2), seed=0, batch_size=size) for size in (2, 9)
        )
        assert calls
        torch.testing.assert_close(few, many, rtol=0, atol=1e-5)
        convolutions = [module for module in model.modules() if isinstance(module, Conv3x3)]
        assert all(module.filters is None and not module.users for module in convolutions)
        assert set(model.state_dict()) == names
        assert not any("filters" in name for name in names)
