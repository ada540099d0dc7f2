"""Callback that logs a metric of samples, or of samples and real images, after each validation."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from diffusion_lab.arguments import check_integer
from diffusion_lab.data.datamodule import ImageDataModule
from diffusion_lab.sampling.method import SamplingMethod
from diffusion_lab.shapes import from_pixels
from diffusion_lab.training.callbacks.rng_state import preserve_rng_state
from diffusion_lab.training.module import DiffusionModule

FAST: Mapping[str, Any] = {"type": "unipc", "steps": 10}
"""The sampler of ``sampler=fast``."""


class Metric(Protocol):
    """Interface of torchmetrics."""

    def update(self, images: Tensor) -> object:
        """Add images ``(N, C, H, W)`` in [0, 1]."""

    def compute(self) -> object:
        """Return the value of the images since the last reset."""

    def reset(self) -> object:
        """Forget all images."""


class SampleMetric(Callback):
    """Logs a metric of samples of the current weights, the averaged ones if there are any.

    The samples are always from the same noise, and spread evenly over the classes. A metric whose ``update`` has an
    argument ``real``, as FID of torchmetrics, also gets as many validation images (training images if there are
    none) with ``real=True``; the samples then have ``real=False``.

    Args:
        metric: The metric; images are given as floats in [0, 1].
        name: Name under which the value is logged.
        num_samples: Number of samples, at least 1.
        sampler: Sampling method: a name, or a mapping of its name as ``type`` and its options; that of
            ``sampler=fast`` by default.
        seed: Seed of the noise, at least 0.
        batch_size: Samples per batch, at least 1.

    Raises:
        TypeError: ``metric`` lacks one of its three methods.
        ValueError: A number is out of range.
    """

    def __init__(
        self,
        metric: Metric,
        name: str,
        num_samples: int = 64,
        sampler: SamplingMethod = FAST,
        seed: int = 0,
        batch_size: int = 64,
    ) -> None:
        for required in ("update", "compute", "reset"):
            if not callable(getattr(metric, required, None)):
                raise TypeError(f"metric must have update, compute and reset, got {type(metric).__name__}")
        check_integer("num_samples", num_samples, 1)
        check_integer("seed", seed, 0)
        check_integer("batch_size", batch_size, 1)
        self.metric = metric
        self.name = name
        self.num_samples = num_samples
        self.sampler = sampler
        self.seed = seed
        self.batch_size = batch_size

    @property
    def state_key(self) -> str:
        """Key that differs between metrics."""
        return self._generate_state_key(name=self.name)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not isinstance(pl_module, DiffusionModule):
            raise TypeError(f"SampleMetric needs a DiffusionModule to sample from, got {type(pl_module).__name__}")
        if isinstance(self.metric, nn.Module):
            self.metric.to(pl_module.device)
        compares = "real" in inspect.signature(self.metric.update).parameters
        with preserve_rng_state():
            self.metric.reset()
            if compares:
                self._add_real_images(trainer, pl_module.device)
            samples = self._samples(pl_module)
            for images in (samples.clamp(-1, 1) / 2 + 0.5).split(self.batch_size):
                self.metric.update(images, **({"real": False} if compares else {}))
            value = self.metric.compute()
        pl_module.log(self.name, float(value))  # type: ignore[arg-type]

    def _samples(self, module: DiffusionModule) -> Tensor:
        classes = module.denoiser.num_classes
        labels = None if classes is None else [index % classes for index in range(self.num_samples)]
        return module.sampler.sample(
            self.num_samples, labels, sampler=self.sampler, seed=self.seed, batch_size=self.batch_size
        )

    def _add_real_images(self, trainer: Trainer, device: torch.device) -> None:
        data = trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, ImageDataModule):
            raise TypeError(f"{self.name} compares with images of an ImageDataModule, got {type(data).__name__}")
        source = data.val or data.train
        chosen = np.linspace(0, len(source) - 1, min(self.num_samples, len(source)), dtype=np.int64)
        for indices in np.array_split(chosen, -(-len(chosen) // self.batch_size)):
            images = from_pixels(torch.from_numpy(source.load_batch(indices, None)).to(device))
            self.metric.update(images / 2 + 0.5, real=True)  # type: ignore[call-arg]
