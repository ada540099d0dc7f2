"""What is allowed and yet unlikely to be meant, as far as only images and noise process tell: said before training."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from diffusion_lab.data.datamodule import ImageDataModule
from diffusion_lab.denoiser import Denoiser
from diffusion_lab.diffusion.loss import DenoisingLoss
from diffusion_lab.ema import EMA

LARGEST_SHARE_LEFT_OUT = 0.1
"""Of the images, by ``drop_last``, in every epoch."""

LARGEST_INITIAL_SHARE = 0.25
"""Of the untrained weights in the average at the end of training; with warm-up it is less after any step."""


def weighting_warnings(loss: DenoisingLoss, denoiser: Denoiser, name: str) -> Iterator[str]:
    """Whether the noisiest level, from which sampling begins, counts in the loss; ``name`` is the weighting's."""
    last = denoiser.schedule.levels(torch.ones(1, dtype=torch.float64))
    weight = loss.weighting.penalty_weight(last, denoiser.parameterization, loss.penalty.degree)
    if weight.item() == 0:
        yield (
            f"training.loss.weighting {name} weighs the noisiest level with 0, as nothing of the image is left there:"
            " what the network puts out where sampling begins is not trained; weighting=uniform and =edm train it"
        )


def batch_warnings(data: ImageDataModule) -> Iterator[str]:
    """Whether ``drop_last`` leaves out many images."""
    images = len(data.train)
    left_out = images % data.batch_size if data.drop_last else 0
    if left_out > LARGEST_SHARE_LEFT_OUT * images:
        whose = "others each time" if data.shuffle else "always the same"
        yield (
            f"data.loading.drop_last leaves out {left_out} of {images} images in each epoch, {whose}: the last batch "
            f"of {data.batch_size} is not full; set it to false, or let data.loading.batch_size divide them better"
        )


def accumulation_warnings(accumulated: int, batches: int) -> Iterator[str]:
    """Whether an optimizer step is to be made of more batches than an epoch has; none spans two epochs.

    Args:
        accumulated: Batches of an optimizer step, by the settings.
        batches: Those of an epoch.
    """
    if accumulated > batches:
        yield (
            f"training.accumulate_batches = {accumulated} is more than the {batches} batch{'es' * (batches > 1)} of an "
            "epoch: an optimizer step never spans two epochs, so each epoch makes a single one, of all its batches"
        )


def ema_warnings(ema: EMA[Denoiser], steps: int) -> Iterator[str]:
    """Whether each average will have forgotten the untrained weights after ``steps`` optimizer steps, and differ."""
    for key, decay in ema.decays.items():
        share = ema.initial_share(steps, decay)
        if share <= LARGEST_INITIAL_SHARE:
            continue
        better = _fast_decay(steps)
        instead = f"choose at most {better:g}, or set" if better else "set"
        of_the_run = f"{steps} optimizer step{'s' * (steps > 1)} of this run"
        yield (
            f"training.ema.{key} = {decay:g} is too slow for the {of_the_run}: {share:.0%} of the average will "
            f"still be the untrained weights; {instead} training.ema.warmup=true"
        )
    rising = [f"training.ema.{key}" for key, decay in ema.decays.items() if ema.decay_at(steps, decay) < decay]
    if len(rising) > 1:
        yield (
            f"{', '.join(rising)} give the same average: with training.ema.warmup the decay rises only to "
            f"{ema.decay_at(steps, 1):.4g} in the {steps} optimizer steps of this run"
        )


def _fast_decay(steps: int) -> float:
    """A decay in round numbers that leaves less than 1 % of the initial weights, exp(-5); 0 where there is none."""
    forgotten = 5 / steps
    digit = 10.0 ** math.floor(math.log10(forgotten))
    return round(max(1 - math.ceil(round(forgotten / digit, 6)) * digit, 0.0), 9)
