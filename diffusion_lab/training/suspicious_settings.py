"""Warnings about valid but probably unintended settings, found before training from images and noise process."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from diffusion_lab.config.training_section import TrainingSettings
from diffusion_lab.data.datamodule import ImageDataModule
from diffusion_lab.denoiser import Denoiser
from diffusion_lab.diffusion.loss import DenoisingLoss
from diffusion_lab.ema import EMA

MAX_SKIPPED_FRACTION = 0.1
"""Fraction of the images that ``drop_last`` may skip in each epoch without a warning."""

MAX_INITIAL_SHARE = 0.25
"""Fraction of untrained weights in the EMA at the end of training without a warning; with warm-up it is less."""


def weighting_warnings(loss: DenoisingLoss, denoiser: Denoiser, name: str) -> Iterator[str]:
    """Warn if the noisiest level, from which sampling starts, has no weight in the loss.

    Args:
        loss: The loss.
        denoiser: The denoiser to train.
        name: Name of the loss weighting.
    """
    last = denoiser.schedule.levels(torch.ones(1, dtype=torch.float64))
    weight = loss.weighting.penalty_weight(last, denoiser.parameterization, loss.penalty.degree)
    if weight.item() == 0:
        yield (
            f"training.loss.weighting {name} gives the noisiest level weight 0, as nothing of the image is left there:"
            " the network is not trained at the level where sampling starts; weighting=uniform and =edm train it"
        )


def batch_warnings(data: ImageDataModule) -> Iterator[str]:
    """Warn if ``drop_last`` skips many images."""
    images = len(data.train)
    skipped = images % data.batch_size if data.drop_last else 0
    if skipped > MAX_SKIPPED_FRACTION * images:
        which = "others each time" if data.shuffle else "always the same"
        yield (
            f"data.loading.drop_last skips {skipped} of {images} images in each epoch, {which}: the last batch "
            f"of {data.batch_size} is not full; set it to false, or let data.loading.batch_size divide them better"
        )


def accumulation_warnings(accumulated: int, batches: int) -> Iterator[str]:
    """Warn if an optimizer step needs more batches than an epoch has, since no step spans two epochs.

    Args:
        accumulated: Batches per optimizer step in the settings.
        batches: Batches per epoch.
    """
    if accumulated > batches:
        yield (
            f"training.accumulate_batches = {accumulated} is more than the {batches} batch{'es' * (batches > 1)} of an "
            "epoch: an optimizer step never spans two epochs, so each epoch makes a single one, of all its batches"
        )


def ema_warnings(ema: EMA[Denoiser], steps: int) -> Iterator[str]:
    """Warn if an EMA will still contain the untrained weights after ``steps`` optimizer steps, or several are equal."""
    for key, decay in ema.decays.items():
        share = ema.initial_weight(steps, decay)
        if share <= MAX_INITIAL_SHARE:
            continue
        max_decay = _max_decay(steps)
        remedy = f"choose at most {max_decay:g}, or set" if max_decay else "set"
        run_length = f"{steps} optimizer step{'s' * (steps > 1)} of this run"
        yield (
            f"training.ema.{key} = {decay:g} is too slow for the {run_length}: {share:.0%} of the average will "
            f"still be the untrained weights; {remedy} training.ema.warmup=true"
        )
    rising = [f"training.ema.{key}" for key, decay in ema.decays.items() if ema.decay_at(steps, decay) < decay]
    if len(rising) > 1:
        yield (
            f"{', '.join(rising)} give the same average: with training.ema.warmup the decay rises only to "
            f"{ema.decay_at(steps, 1):.4g} in the {steps} optimizer steps of this run"
        )


def _max_decay(steps: int) -> float:
    """Return a round decay that leaves less than 1 % of the initial weights, exp(-5); 0 if there is none."""
    forgotten = 5 / steps
    digit = 10.0 ** math.floor(math.log10(forgotten))
    return round(max(1 - math.ceil(round(forgotten / digit, 6)) * digit, 0.0), 9)


def max_steps_warnings(training: TrainingSettings, steps: int) -> Iterator[str]:
    """Warn if the epochs are over before ``max_steps`` is reached.

    Args:
        training: The ``training`` section.
        steps: Optimizer steps of the complete run.
    """
    if training.max_steps is not None and steps < training.max_steps:
        epochs = math.ceil(training.epochs * training.max_steps / steps)
        yield (
            f"training.max_steps = {training.max_steps} is not reached: training.epochs={training.epochs} end after "
            f"{steps} optimizer steps, training.epochs={epochs} would reach it"
        )
