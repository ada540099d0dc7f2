"""3×3 convolutions; on CPUs with AVX2 in float32 with a quarter of the multiplications, by Winograd's filtering.

The image is split into 6×6 tiles that overlap by two, each of which yields 4×4 output values: 36 multiplications per
pair of channels, where direct convolution takes 144. In the notation of arXiv:1509.09308 (section 4), F(4×4, 3×3) is

    Y = Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A

for a tile d and a filter g. The transforms are small matrix products along each side of all tiles at once, and the sum
of ⊙ over channels is one matrix product for each of the 36 positions, so all work is in matrix products.
The cost is rounding: the largest errors are about 5e-5 of the output's spread, those of direct convolution 1e-5.

With AVX-512 tiles are no faster: on an AMD EPYC of family 26, oneDNN's direct convolutions reach 500 GFLOP/s and matrix
products 170, so tiles take up to twice the time; on a Xeon with AMX both take the same time.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional

OUT, IN = 4, 6
"""Sides of an output tile and of its input tile."""

# The polynomials of section 4.2 at the points 0, 1, -1, 2, -2 and infinity.
TILE_TRANSFORM = torch.tensor(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
).float()
FILTER_TRANSFORM = torch.tensor([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]) / 24
OUTPUT_TRANSFORM = torch.tensor(
    [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]
).float()

MIN_POSITIONS = 1024
"""Minimum pixels of a batch; below, transforming the filters takes longer than is gained."""

MIN_CHANNELS = 40
"""Minimum of half the harmonic mean of input and output channels; below, transforming the images takes longer."""

CHUNK_BYTES, CHUNK_TILES = 2**23, 64
"""Limits on the tiles processed at a time: they should fit into the last-level cache, and reuse each filter well."""

_winograd_enabled = torch.backends.cpu.get_cpu_capability() == "AVX2"


@contextlib.contextmanager
def disable_winograd() -> Iterator[None]:
    """Use direct convolution everywhere in this process, to count operations or to compare."""
    global _winograd_enabled
    before, _winograd_enabled = _winograd_enabled, False
    try:
        yield
    finally:
        _winograd_enabled = before


@contextlib.contextmanager
def cache_filters(network: nn.Module) -> Iterator[None]:
    """Cache the transformed filters of a network whose weights do not change inside the block.

    The cache takes four times the filters' memory. Inside the block, the method of convolution does not depend on the
    batch size.
    """
    layers: list[Conv3x3] = []
    try:  # also around the setup, which a signal can interrupt
        for layer in network.modules():
            if isinstance(layer, Conv3x3):
                layer.users += 1
                layers.append(layer)
        yield
    finally:
        for layer in layers:
            layer.users -= 1
            if not layer.users:
                layer.filters = None


class Conv3x3(nn.Conv2d):
    """3×3 convolution with zero padding of one, as ``nn.Conv2d(channels, out_channels, 3, padding=1)``."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__(channels, out_channels, 3, padding=1)
        self.users = 0
        """Number of active ``cache_filters`` blocks."""
        self.filters: Tensor | None = None
        """Transformed filters, if they are cached."""

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n k h w"]:
        """Map ``(N, channels, H, W)`` to ``(N, out_channels, H, W)``."""
        if torch.compiler.is_compiling() or not self._use_winograd(images):  # a compiler supports only this
            return super().forward(images)
        if self.users and self.filters is None:
            self.filters = _transform_filters(self.weight.detach())
        output: Tensor = _WinogradConvolution.apply(  # type: ignore[no-untyped-call]
            images, self.weight, self.bias, self.filters
        )
        return output

    def _use_winograd(self, images: Tensor) -> bool:
        """Return whether Winograd convolution is supported and faster."""
        batch, channels, height, width = images.shape
        return (
            _winograd_enabled
            and images.device.type == "cpu"
            and images.dtype == self.weight.dtype == torch.float32
            and not torch.is_autocast_enabled("cpu")
            and forward_ad._current_level < 0  # forward-mode AD and torch.func need torch's operations
            and not torch._C._are_functorch_transforms_active()
            and height % OUT == width % OUT == 0
            and batch * height * width >= (1 if self.users else MIN_POSITIONS)
            and channels * self.out_channels >= MIN_CHANNELS * (channels + self.out_channels)
        )


class _WinogradConvolution(torch.autograd.Function):
    """Map images (N, C, H, W), weight (K, C, 3, 3), bias (K,) and transformed filters or None to (N, K, H, W)."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, bias: Tensor, filters: Tensor | None) -> Tensor:
        ctx.save_for_backward(images, weight)
        return _convolve(images, _transform_filters(weight) if filters is None else filters, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        images, weight = ctx.saved_tensors
        need_images, need_weight, need_bias, _ = ctx.needs_input_grad
        double_backward = torch.is_grad_enabled()  # a second derivative is needed, which only torch's operations have
        image_gradient, weight_gradient = (
            (_direct_image_gradient, _direct_weight_gradient)
            if double_backward
            else (_image_gradient, _weight_gradient)
        )
        return (
            image_gradient(weight, gradient) if need_images else None,
            weight_gradient(images, gradient) if need_weight else None,
            gradient.sum((0, 2, 3)) if need_bias else None,
            None,
        )


def _direct_image_gradient(weight: Tensor, gradient: Tensor) -> Tensor:
    return functional.conv_transpose2d(gradient, weight, padding=1)


def _direct_weight_gradient(images: Tensor, gradient: Tensor) -> Tensor:
    result: Tensor = functional.conv2d(images.transpose(0, 1), gradient.transpose(0, 1), padding=1)
    return result.transpose(0, 1)


def _image_gradient(weight: Tensor, gradient: Tensor) -> Tensor:
    return _convolve(gradient, _transform_filters(weight.flip(2, 3).transpose(0, 1)))


def _transform_filters(weight: Tensor) -> Tensor:
    """Transform filters (K, C, 3, 3) to (36, C, K)."""
    out_channels, channels = weight.shape[:2]
    return _apply_to_both_sides(FILTER_TRANSFORM, weight.permute(2, 3, 1, 0)).view(IN * IN, channels, out_channels)


def _apply_to_both_sides(matrix: Tensor, tiles: Tensor) -> Tensor:
    """Apply a matrix (R, S) along both sides of tiles (S, S, …): (R, R, product of the rest)."""
    rows, side = matrix.shape
    return matrix @ (matrix @ tiles.reshape(side, -1)).view(rows, side, -1)


def _convolve(images: Tensor, filters: Tensor, bias: Tensor | None = None) -> Tensor:
    (batch, channels, height, width), out_channels = images.shape, filters.shape[2]
    padded, output = _padded(images), images.new_empty(batch, height, width, out_channels)
    zero = images.new_zeros(()) if bias is None else bias
    for part in _chunks(images.shape, out_channels):
        tiles = _apply_to_both_sides(TILE_TRANSFORM, _tiles(padded[part])).view(IN * IN, -1, channels)
        blocks = _blocks(output[part])
        torch.add(
            _apply_to_both_sides(OUTPUT_TRANSFORM, (tiles @ filters).view(IN, IN, -1)).view(blocks.shape),
            zero,
            out=blocks,
        )
    return output.permute(0, 3, 1, 2)


def _weight_gradient(images: Tensor, gradient: Tensor) -> Tensor:
    channels, out_channels = images.shape[1], gradient.shape[1]
    total = images.new_zeros(IN * IN, channels, out_channels)
    padded, gradients = _padded(images), gradient.permute(0, 2, 3, 1)
    for part in _chunks(images.shape, out_channels):
        tiles = _apply_to_both_sides(TILE_TRANSFORM, _tiles(padded[part])).view(IN * IN, -1, channels)
        blocks = _apply_to_both_sides(OUTPUT_TRANSFORM.T, _blocks(gradients[part])).view(IN * IN, -1, out_channels)
        total.baddbmm_(tiles.transpose(1, 2), blocks)
    filters = _apply_to_both_sides(FILTER_TRANSFORM.T, total.view(IN, IN, -1))
    return filters.view(3, 3, channels, out_channels).permute(3, 2, 0, 1)


def _chunks(shape: torch.Size, out_channels: int) -> Iterator[slice]:
    """Split the batch into equal parts."""
    batch, channels, height, width = shape
    tiles = (height // OUT) * (width // OUT)
    most = max(CHUNK_BYTES // (4 * IN * IN * max(channels, out_channels)), CHUNK_TILES)
    parts = math.ceil(batch / max(most // tiles, 1))
    size = math.ceil(batch / parts)
    return (slice(start, start + size) for start in range(0, batch, size))


def _padded(images: Tensor) -> Tensor:
    """Pad with zeros: (N, H + 2, W + 2, C), in channels-last memory."""
    batch, channels, height, width = images.shape
    padded = images.new_empty(batch, height + 2, width + 2, channels)
    for border in (padded[:, 0], padded[:, -1], padded[:, :, 0], padded[:, :, -1]):
        border.zero_()
    padded[:, 1:-1, 1:-1] = images.permute(0, 2, 3, 1)
    return padded


def _tiles(padded: Tensor) -> Tensor:
    """Return overlapping tiles (6, 6, N, H/4, W/4, C), a view of (N, H + 2, W + 2, C)."""
    return padded.unfold(1, IN, OUT).unfold(2, IN, OUT).permute(4, 5, 0, 1, 2, 3)


def _blocks(images: Tensor) -> Tensor:
    """Return output tiles (4, 4, N, H/4, W/4, K), a view of (N, H, W, K)."""
    blocks: Tensor = images.unflatten(1, (-1, OUT)).unflatten(3, (-1, OUT))
    return blocks.permute(2, 4, 0, 1, 3, 5)
