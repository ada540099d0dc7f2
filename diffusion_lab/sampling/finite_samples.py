"""Detecting NaN and infinity during sampling, with advice on what to do."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from diffusion_lab.denoiser import Denoiser
from diffusion_lab.shapes import Images

PRECISION_KEY = "generation.sampling.precision"

GPU_INTERVAL = 16
"""Steps between two reads of the result on a GPU: each read synchronizes."""


class NonFiniteSamplesError(ValueError):
    """Raised if images become NaN or infinite during sampling; they would be saved as black or white images.

    Args:
        finding: The images, and the step.
        advice: Possible causes, and what to do.
        indices: Indices of the images of the same call, or batch, that are finished and finite, ascending.
        images: Those images ``(N, C, H, W)`` in [-1, 1]; None if there are none.
    """

    def __init__(self, finding: str, advice: str, indices: Sequence[int] = (), images: Images | None = None) -> None:
        super().__init__(f"{finding}: {advice}")
        self.finding = finding
        self.advice = advice
        self.indices = tuple(indices)
        self.images = images

    def with_earlier(self, count: int, images: Images, first: int) -> NonFiniteSamplesError:
        """Return the same error with the ``count`` images finished before, with indices from ``first``, added."""
        finite = images if self.images is None else torch.cat([images, self.images])
        return NonFiniteSamplesError(self.finding, self.advice, (*range(first, first + count), *self.indices), finite)


class FiniteCheck:
    """Record the step at which each image of a batch becomes NaN or infinite.

    Sampling continues for the other images, which are kept: it stops early only if none is finite.

    Estimates are checked before clipping, which turns infinity into a plain white pixel. On a GPU the result stays on
    the device and is read every ``GPU_INTERVAL`` steps and at the end.

    Args:
        denoiser: The model, whose weights and precision explain a failure.
        first: Index of the batch's first image.
        count: Number of images.
        steps: Number of sampling steps.
        device: Device of the images.
    """

    def __init__(self, denoiser: Denoiser, first: int, count: int, steps: int, device: torch.device) -> None:
        self.denoiser = denoiser
        self.first = first
        self.steps = steps
        self.step = 1
        self._bad_since = torch.zeros(count, dtype=torch.int64, device=device)  # 0 means never

    def check(self, images: Images) -> Images:
        """Record which images ``(N, C, H, W)`` of the current step are not finite, and return them unchanged."""
        bad = ~images.isfinite().flatten(1).all(dim=1)
        self._bad_since.masked_fill_(bad & (self._bad_since == 0), self.step)
        return images

    def finish_step(self) -> None:
        """Advance to the next step.

        Raises:
            NonFiniteSamplesError: All images are NaN or infinite; the message names the step and what to do.
        """
        due = self._bad_since.device.type == "cpu" or self.step % GPU_INTERVAL == 0
        if due and bool(self._bad_since.all()):
            raise NonFiniteSamplesError(self._finding(self._bad_since.cpu()), advice(self.denoiser))
        self.step += 1

    def finish(self, images: Images) -> Images:
        """Return the finished images ``(N, C, H, W)``.

        Raises:
            NonFiniteSamplesError: Some are NaN or infinite; the message names them, the step and what to do. The error
                holds the others.
        """
        since = self._bad_since.cpu()
        if bool(since.any()):
            good = (since == 0).nonzero().flatten()
            finite = images[good.to(images.device)] if len(good) else None
            indices = [self.first + int(index) for index in good]
            raise NonFiniteSamplesError(self._finding(since), advice(self.denoiser), indices, finite)
        return images

    def _finding(self, since: Tensor) -> str:
        bad = since.nonzero().flatten()
        step = int(since[bad].min())
        images = f"image {self.first + int(bad[0])}" + (f" and {len(bad) - 1} more" if len(bad) > 1 else "")
        return f"sampling gave NaN or infinity at step {step} of {self.steps} in {images}"


def advice(denoiser: Denoiser) -> str:
    """Return one sentence on why a denoiser may have returned NaN or infinity, and what to do."""
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
