"""3×3 convolutions; on CPUs with AVX2 in float32 with a quarter of the multiplications, by Winograd's filtering.

The image is cut into tiles of 6×6 that overlap by two, each of which gives 4×4 numbers of the output: 36
multiplications for each pair of channels, where the plain way takes 144. In the notation of arXiv:1509.09308 (section
4), F(4×4, 3×3) is

    Y = Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A

for a tile d and a filter g. Changing the basis is a small matrix product along each side of all tiles at once, and
summing ⊙ over channels one for each of the 36 places, so all of the work is in matrix products.
The price is rounding: the largest errors are about 5e-5 of the output's spread, where the plain way's are 1e-5.

With AVX-512 they do not pay: on an AMD EPYC of family 26 oneDNN's direct convolutions reach 500 GFLOP/s and matrix
products 170, so that tiles take up to twice the time, and on a Xeon with AMX they gain nothing.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional

OUT, IN = 4, 6
"""Sides of a tile of the output, and of what it is made of."""

# The polynomials of section 4.2 at the points 0, 1, -1, 2, -2 and infinity.
OF_TILE = torch.tensor(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
).float()
OF_FILTER = torch.tensor([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]) / 24
TO_RESULT = torch.tensor([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]).float()

MIN_POSITIONS = 1024
"""Pixels of a batch, below which changing the basis of the filters takes longer than is gained."""

MIN_CHANNELS = 40
"""The same for the basis of the images: half the harmonic mean of the channels that come in and go out."""

CHUNK_BYTES, CHUNK_TILES = 2**23, 64
"""Tiles worked on at a time shall stay in the processor's last cache, and be enough to use each filter well."""

_tiles_allowed = torch.backends.cpu.get_cpu_capability() == "AVX2"


@contextlib.contextmanager
def plain_convolutions() -> Iterator[None]:
    """Let every convolution of this process go the plain way: to count its arithmetic, or to compare."""
    global _tiles_allowed
    before, _tiles_allowed = _tiles_allowed, False
    try:
        yield
    finally:
        _tiles_allowed = before


@contextlib.contextmanager
def fixed_filters(network: nn.Module) -> Iterator[None]:
    """While no weight of a network changes: each filter changes its basis once, which takes four times its memory.

    An image is then convolved in the same way whatever the batch that it is in.
    """
    begun: list[Conv3x3] = []
    try:  # also around the beginning, which a signal can interrupt halfway
        for layer in network.modules():
            if isinstance(layer, Conv3x3):
                layer.users += 1
                begun.append(layer)
        yield
    finally:
        for layer in begun:
            layer.users -= 1
            if not layer.users:
                layer.filters = None


class Conv3x3(nn.Conv2d):
    """A convolution of 3×3 with a border of one zero, as ``nn.Conv2d(channels, out_channels, 3, padding=1)``."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__(channels, out_channels, 3, padding=1)
        self.users = 0
        """How many have fixed the filters."""
        self.filters: Tensor | None = None
        """In their basis, where they are fixed."""

    def forward(self, images: Tensor) -> Tensor:
        """Map ``(N, channels, H, W)`` to ``(N, out_channels, H, W)``."""
        if torch.compiler.is_compiling() or not self._in_tiles(images):  # a compiler knows the plain way
            return super().forward(images)
        if self.users and self.filters is None:
            self.filters = _in_basis(self.weight.detach())
        output: Tensor = _InTiles.apply(  # type: ignore[no-untyped-call]
            images, self.weight, self.bias, self.filters
        )
        return output

    def _in_tiles(self, images: Tensor) -> bool:
        """Whether that is faster."""
        batch, channels, height, width = images.shape
        return (
            _tiles_allowed
            and images.device.type == "cpu"
            and images.dtype == self.weight.dtype == torch.float32
            and not torch.is_autocast_enabled("cpu")
            and forward_ad._current_level < 0  # derivatives forward, and torch.func, are torch's own operations' alone
            and not torch._C._are_functorch_transforms_active()
            and height % OUT == width % OUT == 0
            and batch * height * width >= (1 if self.users else MIN_POSITIONS)
            and channels * self.out_channels >= MIN_CHANNELS * (channels + self.out_channels)
        )


class _InTiles(torch.autograd.Function):
    """Images (N, C, H, W), weight (K, C, 3, 3), bias (K,) and the filters, if they are known, to (N, K, H, W)."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, bias: Tensor, filters: Tensor | None) -> Tensor:
        ctx.save_for_backward(images, weight)
        return _convolve(images, _in_basis(weight) if filters is None else filters, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        images, weight = ctx.saved_tensors
        of_images, of_weight, of_bias, _ = ctx.needs_input_grad
        plain = torch.is_grad_enabled()  # a gradient of the gradient is wanted: torch's own operations have one
        by_images, by_weight = (_plain_by_images, _plain_by_weight) if plain else (_by_images, _by_weight)
        return (
            by_images(weight, gradient) if of_images else None,
            by_weight(images, gradient) if of_weight else None,
            gradient.sum((0, 2, 3)) if of_bias else None,
            None,
        )


def _plain_by_images(weight: Tensor, gradient: Tensor) -> Tensor:
    return functional.conv_transpose2d(gradient, weight, padding=1)


def _plain_by_weight(images: Tensor, gradient: Tensor) -> Tensor:
    turned: Tensor = functional.conv2d(images.transpose(0, 1), gradient.transpose(0, 1), padding=1)
    return turned.transpose(0, 1)


def _by_images(weight: Tensor, gradient: Tensor) -> Tensor:
    return _convolve(gradient, _in_basis(weight.flip(2, 3).transpose(0, 1)))


def _in_basis(weight: Tensor) -> Tensor:
    """(K, C, 3, 3) to (36, C, K)."""
    out_channels, channels = weight.shape[:2]
    return _along_both(OF_FILTER, weight.permute(2, 3, 1, 0)).view(IN * IN, channels, out_channels)


def _along_both(matrix: Tensor, tiles: Tensor) -> Tensor:
    """Apply a matrix (R, S) along both sides of tiles (S, S, …): (R, R, all that follows)."""
    rows, side = matrix.shape
    return matrix @ (matrix @ tiles.reshape(side, -1)).view(rows, side, -1)


def _convolve(images: Tensor, filters: Tensor, bias: Tensor | None = None) -> Tensor:
    (batch, channels, height, width), out_channels = images.shape, filters.shape[2]
    padded, output = _padded(images), images.new_empty(batch, height, width, out_channels)
    zero = images.new_zeros(()) if bias is None else bias
    for part in _chunks(images.shape, out_channels):
        tiles = _along_both(OF_TILE, _tiles(padded[part])).view(IN * IN, -1, channels)
        blocks = _blocks(output[part])
        torch.add(_along_both(TO_RESULT, (tiles @ filters).view(IN, IN, -1)).view(blocks.shape), zero, out=blocks)
    return output.permute(0, 3, 1, 2)


def _by_weight(images: Tensor, gradient: Tensor) -> Tensor:
    channels, out_channels = images.shape[1], gradient.shape[1]
    found = images.new_zeros(IN * IN, channels, out_channels)
    padded, gradients = _padded(images), gradient.permute(0, 2, 3, 1)
    for part in _chunks(images.shape, out_channels):
        tiles = _along_both(OF_TILE, _tiles(padded[part])).view(IN * IN, -1, channels)
        blocks = _along_both(TO_RESULT.T, _blocks(gradients[part])).view(IN * IN, -1, out_channels)
        found.baddbmm_(tiles.transpose(1, 2), blocks)
    filters = _along_both(OF_FILTER.T, found.view(IN, IN, -1))
    return filters.view(3, 3, channels, out_channels).permute(3, 2, 0, 1)


def _chunks(shape: torch.Size, out_channels: int) -> Iterator[slice]:
    """The batch in equal parts."""
    batch, channels, height, width = shape
    tiles = (height // OUT) * (width // OUT)
    most = max(CHUNK_BYTES // (4 * IN * IN * max(channels, out_channels)), CHUNK_TILES)
    parts = math.ceil(batch / max(most // tiles, 1))
    size = math.ceil(batch / parts)
    return (slice(start, start + size) for start in range(0, batch, size))


def _padded(images: Tensor) -> Tensor:
    """(N, H + 2, W + 2, C), channels last in memory."""
    batch, channels, height, width = images.shape
    padded = images.new_empty(batch, height + 2, width + 2, channels)
    for border in (padded[:, 0], padded[:, -1], padded[:, :, 0], padded[:, :, -1]):
        border.zero_()
    padded[:, 1:-1, 1:-1] = images.permute(0, 2, 3, 1)
    return padded


def _tiles(padded: Tensor) -> Tensor:
    """(6, 6, N, H/4, W/4, C): each place of a tile, in all tiles, which overlap; a view of (N, H + 2, W + 2, C)."""
    return padded.unfold(1, IN, OUT).unfold(2, IN, OUT).permute(4, 5, 0, 1, 2, 3)


def _blocks(images: Tensor) -> Tensor:
    """(4, 4, N, H/4, W/4, K): each place of a block of the output, in all blocks; a view of (N, H, W, K)."""
    blocks: Tensor = images.unflatten(1, (-1, OUT)).unflatten(3, (-1, OUT))
    return blocks.permute(2, 4, 0, 1, 3, 5)
