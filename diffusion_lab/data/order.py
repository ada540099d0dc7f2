"""In which order the images come, so that a run can stop anywhere and go on as if it never had."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from diffusion_lab.data.source import IndexArray
from diffusion_lab.seeds import derive_seed


class Draw(NamedTuple):
    """The images of one batch, and the seed of every random draw made with it (63 bits)."""

    indices: tuple[int, ...]
    seed: int


@dataclass(frozen=True)
class EpochOrder:
    """The batches of one epoch. They follow from (seed, epoch): not from the batch size, not from the number
    of workers, not from what was drawn before.

    In each step the ranks take neighbouring slices of the epoch's permutation, so all of them together
    see the same images in the same order as one device with ``world_size`` times the batch size. A last
    step that cannot give each rank as much is filled from the start of the permutation.

    Args:
        length: number of images.
        batch_size: images per batch and rank.
        seed: seed of the run.
        shuffle: a new permutation each epoch; False for the order of the source.
        drop_last: leave out a last step that is not full.
        rank: which slice of a step is this process's own.
        world_size: number of ranks.
        epoch: number of the epoch.
        start: images of the epoch (over all ranks) already seen; iterating gives the rest.

    Raises:
        ValueError: an epoch has no batch, or ``start`` is not the beginning of a batch.
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
        """Images that all ranks together take in one step."""
        return self.batch_size * self.world_size

    def seen(self, batches: int) -> int:
        """Images of an epoch that all ranks together have seen after its first ``batches`` batches."""
        return min(batches * self.step_size, self.length)

    def __len__(self) -> int:
        """Batches of the full epoch, whatever ``start`` is: Lightning counts on that when it resumes."""
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
    """The batch sampler of training: the epochs of a run one after the other, from a place in the first.

    It goes on to the next epoch by itself when it is iterated again after batches of this one were trained on,
    and so never depends on anyone's count of epochs. (Lightning tells samplers the epoch only after it began to
    iterate, and after some interruptions counts an epoch of which it showed nothing.)

    Args:
        order: the epoch to begin with.
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
        """A batch has come to training (batches that workers loaded ahead do not count)."""
        self._trained += 1

    def place(self, unfinished: int, batches_per_epoch: float) -> tuple[int, int]:
        """(epoch, images seen in it) up to which training is done.

        Args:
            unfinished: batches that came to training and are still in work (0 or 1).
            batches_per_epoch: after how many an epoch counts as complete.
        """
        done = -(-self.order.start // self.order.step_size) + self._trained - unfinished
        if done >= batches_per_epoch:
            return self.order.epoch + 1, 0
        return self.order.epoch, self.order.seen(done)
