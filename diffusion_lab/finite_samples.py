"""Watching a sampler's walk for NaN and infinity, and what to do about them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from diffusion_lab.denoiser import Denoiser
from diffusion_lab.shapes import Images

PRECISION_KEY = "generation.sampling.precision"

GPU_INTERVAL = 16
"""Steps between two looks at what a GPU found: each look makes it wait."""


class NonFiniteSamplesError(ValueError):
    """Images that are being sampled became NaN or infinite; they would be saved as black or white pictures.

    Args:
        finding: Which images, and at which step.
        advice: Why that may be, and what to do.
        indices: Numbers of the images of the same call, or batch, that were finished and are finite, rising.
        images: Those images ``(N, C, H, W)`` in [-1, 1]; None where there are none.
    """

    def __init__(self, finding: str, advice: str, indices: Sequence[int] = (), images: Images | None = None) -> None:
        super().__init__(f"{finding}: {advice}")
        self.finding = finding
        self.advice = advice
        self.indices = tuple(indices)
        self.images = images

    def with_earlier(self, count: int, images: Images, first: int) -> NonFiniteSamplesError:
        """Return the same error that also holds the ``count`` images finished before, numbered from ``first``."""
        finite = images if self.images is None else torch.cat([images, self.images])
        return NonFiniteSamplesError(self.finding, self.advice, (*range(first, first + count), *self.indices), finite)


class FiniteCheck:
    """Notes at which step each image of a batch leaves the finite numbers.

    The walk goes on for the others, which are kept: it stops early only where none of them is finite any more.

    Estimates are checked before they are clipped, since clipping turns infinity into a plain white pixel. What a GPU
    finds stays there and is read every ``GPU_INTERVAL`` steps and at the end.

    Args:
        denoiser: The model, whose weights and precision explain a failure.
        first: Number of the batch's first image.
        count: Number of images.
        steps: Steps of the walk.
        device: Where the images are.
    """

    def __init__(self, denoiser: Denoiser, first: int, count: int, steps: int, device: torch.device) -> None:
        self.denoiser = denoiser
        self.first = first
        self.steps = steps
        self.step = 1
        self._bad_since = torch.zeros(count, dtype=torch.int64, device=device)  # 0 is never

    def check(self, images: Images) -> Images:
        """Note which images ``(N, C, H, W)`` of the current step are not finite; returns them unchanged."""
        bad = ~images.isfinite().flatten(1).all(dim=1)
        self._bad_since.masked_fill_(bad & (self._bad_since == 0), self.step)
        return images

    def finish_step(self) -> None:
        """Go on to the next step.

        Raises:
            NonFiniteSamplesError: All images are NaN or infinite: since which step, and what to do.
        """
        due = self._bad_since.device.type == "cpu" or self.step % GPU_INTERVAL == 0
        if due and bool(self._bad_since.all()):
            raise NonFiniteSamplesError(self._finding(self._bad_since.cpu()), advice(self.denoiser))
        self.step += 1

    def finish(self, images: Images) -> Images:
        """Return the finished images ``(N, C, H, W)``.

        Raises:
            NonFiniteSamplesError: Some are NaN or infinite: which, since which step, and what to do. It holds the rest.
        """
        since = self._bad_since.cpu()
        if bool(since.any()):
            good = (since == 0).nonzero().flatten()
            kept = images[good.to(images.device)] if len(good) else None
            numbers = [self.first + int(place) for place in good]
            raise NonFiniteSamplesError(self._finding(since), advice(self.denoiser), numbers, kept)
        return images

    def _finding(self, since: Tensor) -> str:
        bad = since.nonzero().flatten()
        step = int(since[bad].min())
        images = f"image {self.first + int(bad[0])}" + (f" and {len(bad) - 1} more" if len(bad) > 1 else "")
        return f"sampling gave NaN or infinity at step {step} of {self.steps} in {images}"


def advice(denoiser: Denoiser) -> str:
    """Say why a denoiser may have given NaN or infinity, and what to do, in one sentence."""
    bad = [name for name, weight in denoiser.state_dict().items() if not bool(weight.isfinite().all())]
    if bad:
        more = f" and {len(bad) - 1} more tensors" if len(bad) > 1 else ""
        return (
            f"the checkpoint's weights are not finite ({bad[0]}{more}); use another checkpoint, such as an earlier one"
        )
    if denoiser.compute_dtype != torch.float32:
        name = str(denoiser.compute_dtype).removeprefix("torch.")
        return (
            f"the weights are finite, so computing in {name} overflowed; set {PRECISION_KEY}=32 "
            "(in Python: denoiser.compute_dtype = torch.float32)"
        )
    return (
        "the weights are finite and it computes in float32, so the network's output grew without bound; use another "
        "checkpoint or sampler, or set sampler.clip=true"
    )
