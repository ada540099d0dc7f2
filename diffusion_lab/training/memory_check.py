"""Whether what the settings ask for fits into the memory of this machine, found out before memory is taken for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from diffusion_lab.config.model_section import ModelSettings
from diffusion_lab.config.schema import TrainConfig
from diffusion_lab.create import refuse_excess
from diffusion_lab.devices import host_memory

IMAGES = {"digits": 1_797, "emoji": 1_911, "mnist": 60_000, "cifar10": 50_000, "fashion_mnist": 60_000}
"""Images of the data sets that are kept in memory as they come, a byte a value."""

FLOAT = 4
"""Bytes of a value on its way through the network."""


class Need(NamedTuple):
    """Memory that is needed at least, in bytes: what for, and which keys make it less."""

    size: int
    purpose: str
    keys: str


def check_memory(config: TrainConfig) -> None:
    """Check that the network, one batch and the images can fit into memory at all.

    These are lower bounds, so that nothing is refused that could work.

    Raises:
        ValueError: Naming what needs how much, and the keys to make smaller.
    """
    refuse_excess(_with_one_class_at_least(config.model))
    memory = host_memory()
    for need in _needs(config):
        if need.size > memory:
            raise ValueError(
                f"{need.purpose} need at least {need.size / 2**30:,.0f} GiB, this machine has "
                f"{memory / 2**30:,.0f} GiB of memory: take a smaller {need.keys}"
            )


def _with_one_class_at_least(model: ModelSettings) -> ModelSettings:
    """The model while its classes are not counted yet; when they are, ``create_denoiser`` compares again."""
    conditioning = model.conditioning
    if conditioning.num_classes != "auto":
        return model
    return model.model_copy(update={"conditioning": conditioning.model_copy(update={"num_classes": 1})})


def _needs(config: TrainConfig) -> Iterator[Need]:
    architecture, shown = config.model.architecture, config.training.visualization
    values = architecture.in_channels * architecture.image_size**2
    size = "model.architecture.image_size"
    count = IMAGES.get(config.data.type)
    if count is not None:
        batch = min(config.data.loading.batch_size, count)
        yield Need(count * values, f"the {count:,} images of data.type {config.data.type}", size)
        yield Need(batch * values * FLOAT, f"the {batch:,} images of a batch", f"{size} or data.loading.batch_size")
    if shown.enabled:
        pictured = "the pictures of training.visualization"
        yield Need(shown.num_samples * values * FLOAT, pictured, "training.visualization.num_samples")
