"""Order of the images, such that a run can stop anywhere and resume as if it had never stopped."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from diffusion_lab.data.source import IndexArray
from diffusion_lab.runtime.seeds import derive_seed


class Draw(NamedTuple):
    """Indices of the images of a batch, and the seed of every random draw made with it (63 bits)."""

    indices: tuple[int, ...]
    seed: int


@dataclass(frozen=True)
class EpochOrder:
    """Batches of one epoch. The order is determined by (seed, epoch) alone, independent of the batch size, the number
    of workers, and earlier draws.

    In each step the ranks take adjacent slices of the epoch's permutation, so together they see the same images in the
    same order as one device with ``world_size`` times the batch size. A last step that cannot be divided evenly is
    filled up from the start of the permutation.

    Args:
        length: number of images.
        batch_size: images per batch and rank.
        seed: seed of the run.
        shuffle: use a new permutation each epoch; False for the order of the source.
        drop_last: drop a last step that is not full.
        rank: rank of this process, which selects its slice of a step.
        world_size: number of ranks.
        epoch: number of the epoch.
        start: images of the epoch (over all ranks) already seen; iteration yields the rest.

    Raises:
        ValueError: an epoch has no batch, or ``start`` is not the start of a batch.
    """

    length: int
    batch_size: int
    seed: int
    shuffle: bool = True
    drop_last: bool = False
    rank: int = 0
    world_size: int = 1
    epoch: int = 0
    start: int = 0

    def __post_init__(self) -> None:
        if len(self) == 0:
            raise ValueError(
                f"data.loading.batch_size = {self.batch_size} with data.loading.drop_last = {self.drop_last} "
                f"leaves no batch of {self.length} images on {self.world_size} device(s): "
                "lower batch_size, or set drop_last=false"
            )
        if self.start % self.step_size and self.start < self.length:
            raise ValueError(f"start must be a multiple of the {self.step_size} images of a step, got {self.start}")

    @property
    def step_size(self) -> int:
        """Number of images of all ranks together in one step."""
        return self.batch_size * self.world_size

    def seen(self, batches: int) -> int:
        """Return the number of images of all ranks seen after the first ``batches`` batches of an epoch."""
        return min(batches * self.step_size, self.length)

    def __len__(self) -> int:
        """Return the number of batches of the full epoch, regardless of ``start``, as Lightning expects on resuming."""
        return self.length // self.step_size if self.drop_last else -(-self.length // self.step_size)

    def __iter__(self) -> Iterator[Draw]:
        order = self._permutation()
        for begin in range(self.start, self.seen(len(self)), self.step_size):
            step = min(self.step_size, self.length - begin)
            share = -(-step // self.world_size)
            first = begin + self.rank * share
            seed = derive_seed("batch", self.seed, self.epoch, first, self.rank)
            yield Draw(tuple(order.take(range(first, first + share), mode="wrap").tolist()), seed)

    def _permutation(self) -> IndexArray:
        if not self.shuffle:
            return np.arange(self.length)
        rng = np.random.default_rng(derive_seed("order", self.seed, self.epoch))
        return rng.permutation(self.length)


class TrainingOrder:
    """Batch sampler for training: the epochs of a run one after the other, from a position in the first.

    It advances to the next epoch when it is iterated again after batches of this one were trained on, so it does not
    depend on an external epoch count. (Lightning sets the epoch of samplers only after it has started to iterate, and
    after some interruptions counts an epoch in which no batch was trained.)

    Args:
        order: the first epoch.
    """

    def __init__(self, order: EpochOrder) -> None:
        self.order = order
        self._trained = 0

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[Draw]:
        if self._trained:
            self.order = replace(self.order, epoch=self.order.epoch + 1, start=0)
            self._trained = 0
        return iter(self.order)

    def count_batch(self) -> None:
        """Count a batch that has reached training (batches prefetched by workers do not count)."""
        self._trained += 1

    def position(self, unfinished: int, batches_per_epoch: float) -> tuple[int, int]:
        """Return (epoch, images seen in it) up to which training is done.

        Args:
            unfinished: batches that have reached training and are not finished (0 or 1).
            batches_per_epoch: number of batches after which an epoch is complete.
        """
        done = -(-self.order.start // self.order.step_size) + self._trained - unfinished
        if done >= batches_per_epoch:
            return self.order.epoch + 1, 0
        return self.order.epoch, self.order.seen(done)
