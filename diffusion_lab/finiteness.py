"""Watching a sampler's walk for NaN and infinity, and what to do about them."""

from __future__ import annotations

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
    """

    def __init__(self, finding: str, advice: str) -> None:
        super().__init__(f"{finding}: {advice}")
        self.finding = finding
        self.advice = advice


class FinitenessWatch:
    """Notes at which step each image of a batch leaves the finite numbers.

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
            NonFiniteSamplesError: An image is NaN or infinite: which, since which step, and what to do.
        """
        due = self._bad_since.device.type == "cpu" or self.step % GPU_INTERVAL == 0 or self.step >= self.steps
        if due and bool(self._bad_since.any()):
            raise NonFiniteSamplesError(self._finding(self._bad_since.cpu()), advice(self.denoiser))
        self.step += 1

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
