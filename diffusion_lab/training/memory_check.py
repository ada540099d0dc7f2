"""Check that a run fits into the memory of this machine, before any memory is allocated for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from diffusion_lab.config.model_section import ModelSettings
from diffusion_lab.config.schema import TrainConfig
from diffusion_lab.create import check_model_fits_memory
from diffusion_lab.runtime.devices import host_memory

IMAGES = {"digits": 1_797, "emoji": 1_911, "mnist": 60_000, "cifar10": 50_000, "fashion_mnist": 60_000}
"""Number of images of the data sets that are kept in memory, with one byte per value."""

FLOAT = 4
"""Bytes of a float32 value in the network."""


class Need(NamedTuple):
    """Least memory needed for a purpose, in bytes, and the keys that reduce it."""

    size: int
    purpose: str
    keys: str


def check_memory(config: TrainConfig) -> None:
    """Check that the network, one batch and the images can fit into memory at all.

    These are lower bounds, so that nothing that could work is refused.

    Raises:
        ValueError: The message names what needs how much memory, and the keys to reduce.
    """
    check_model_fits_memory(_with_one_class_at_least(config.model))
    memory = host_memory()
    for need in _needs(config):
        if need.size > memory:
            raise ValueError(
                f"{need.purpose} need at least {need.size / 2**30:,.0f} GiB, this machine has "
                f"{memory / 2**30:,.0f} GiB of memory: take a smaller {need.keys}"
            )


def _with_one_class_at_least(model: ModelSettings) -> ModelSettings:
    """Return the model for the check before classes are counted; ``create_denoiser`` checks again afterwards."""
    conditioning = model.conditioning
    if conditioning.num_classes != "auto":
        return model
    return model.model_copy(update={"conditioning": conditioning.model_copy(update={"num_classes": 1})})


def _needs(config: TrainConfig) -> Iterator[Need]:
    architecture, visualization = config.model.architecture, config.training.visualization
    values = architecture.in_channels * architecture.image_size**2
    size = "model.architecture.image_size"
    count = IMAGES.get(config.data.type)
    if count is not None:
        batch = min(config.data.loading.batch_size, count)
        yield Need(count * values, f"the {count:,} images of data.type {config.data.type}", size)
        yield Need(batch * values * FLOAT, f"the {batch:,} images of a batch", f"{size} or data.loading.batch_size")
    if visualization.enabled:
        samples = "the sample images of training.visualization"
        yield Need(visualization.num_samples * values * FLOAT, samples, "training.visualization.num_samples")
