"""Lightning data module: batches on the device, resumable at any position."""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from diffusion_lab.data.augmentation import Augmentation
from diffusion_lab.data.order import Draw, EpochOrder, TrainingOrder
from diffusion_lab.data.remarks import Remarks
from diffusion_lab.data.skipped_images import DataWarning, format_lines
from diffusion_lab.data.source import ImageSource, Renumbered, Subset
from diffusion_lab.data.workers import START_METHOD, WORKER_TIMEOUT, SuspendableLoader, set_up_worker
from diffusion_lab.runtime import torchvision_import
from diffusion_lab.runtime.determinism import seed_host_generators
from diffusion_lab.shapes import Batch, from_pixels

torchvision_import.install()
from lightning.pytorch import LightningDataModule  # noqa: E402 - it imports torchvision


class BatchDataset(Dataset[Batch]):
    """Dataset that loads complete batches in the worker: ``__getitems__`` turns a Draw into a Batch of uint8 images.

    Args:
        source: the images.
        labelled: whether batches contain labels.
        training: whether the batches are for training, where the source may be random (its random crop), seeded by the
            draw. Validation batches contain the indices of their images.
    """

    def __init__(self, source: ImageSource, labelled: bool, training: bool) -> None:
        self.source, self.labelled, self.training = source, labelled, training
        self.seed_generators = seed_host_generators if _is_custom(source) else _no_seeding

    def __len__(self) -> int:
        return len(self.source)

    def __getitems__(self, draw: Draw) -> Batch:
        rng = np.random.default_rng(draw.seed) if self.training and self.source.varies else None
        indices = np.array(draw.indices, dtype=np.int64)
        with self.seed_generators(draw.seed):
            images = self.source.load_batch(indices, rng)
        labels = torch.from_numpy(self.source.labels[indices]) if self.labelled else None
        recorded = () if self.training else draw.indices
        return Batch(torch.from_numpy(images), labels, draw.seed, self.source.take_skipped(), recorded)


def _is_custom(source: ImageSource) -> bool:
    """Return whether the images come from a class outside this package, which may use the global generators."""
    while isinstance(source, Subset | Renumbered):
        source = source.source
    return type(source).__module__.partition(".")[0] != __name__.partition(".")[0]


def _no_seeding(seed: int) -> AbstractContextManager[None]:
    return nullcontext()  # seeding all generators and restoring them takes as long as loading a small batch


class ImageDataModule(LightningDataModule):
    """Data module with training and validation batches that are reproducible for a given seed.

    Images are transferred as uint8 and become float32 in [-1, 1] on the device, where training images are augmented.
    Validation uses every image in a fixed order, never augmented, and with its index, which determines its noise and
    time.

    Its state is (epoch, images seen): a resumed run draws exactly the remaining images of the interrupted run, in the
    same batches and with the same seeds, with any number of workers.

    The Trainer must be created with ``use_distributed_sampler=False``: the order of the images is already split among
    the ranks.

    Args:
        train: images to train on.
        val: images to validate on, of the same size, channels and classes; None for no validation.
        batch_size: images per batch and device.
        num_workers: number of loader processes; 0 loads in this process.
        pin_memory: use page-locked memory for faster transfer; no effect without a CUDA device.
        shuffle: use a new order each epoch; False for the order of the source.
        drop_last: drop an epoch's last batch if it is not full.
        augmentation: augmentation of training batches; None for none.
        labelled: whether batches contain labels; otherwise their labels are None.
        seed: seed of the run, ≥ 0.
        remarks: remarks on the images, recorded by the run.
        worker_timeout: seconds without a batch after which loader processes count as hung, > 0.

    Raises:
        ValueError: an epoch would have no batch, or ``val`` does not match ``train``.
    """

    def __init__(
        self,
        train: ImageSource,
        val: ImageSource | None,
        batch_size: int,
        num_workers: int = 0,
        pin_memory: bool = False,
        shuffle: bool = True,
        drop_last: bool = False,
        augmentation: Augmentation | None = None,
        labelled: bool = False,
        seed: int = 0,
        worker_timeout: float = WORKER_TIMEOUT,
        remarks: Remarks | None = None,
    ) -> None:
        super().__init__()
        _check_match(train, val)
        self.train, self.val, self.remarks = train, val, remarks or Remarks()
        self.batch_size, self.num_workers = batch_size, num_workers
        self.worker_timeout = worker_timeout
        self.pin_memory = pin_memory and torch.cuda.is_available()  # torch warns if it has no effect
        self.shuffle, self.drop_last = shuffle, drop_last
        self.augmentation, self.labelled, self.seed = augmentation, labelled, seed
        self._order = TrainingOrder(
            self._epoch_order(0, 0)
        )  # raises for an epoch without batches before anything is set up
        self._resume_at: tuple[int, int] | None = None

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names in the order of their numbers; () if the images have none."""
        return self.train.class_names

    @property
    def num_classes(self) -> int:
        return len(self.train.class_names)

    @property
    def val_is_split_off(self) -> bool:
        """True if the validation images were split off the training images, which then exclude them."""
        parts = (self.train, self.val)
        return all(isinstance(part, Subset) for part in parts) and len({id(part.source) for part in parts}) == 1  # type: ignore[union-attr]

    @property
    def step_size(self) -> int:
        """Number of images in one batch of each device together."""
        return self._epoch_order(0, 0).step_size

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches per device and epoch."""
        return len(self._epoch_order(0, 0))

    def train_dataloader(self) -> DataLoader[Batch]:
        position = self._resume_at or (self.trainer.current_epoch if self.trainer else 0, 0)
        self._order, self._resume_at = TrainingOrder(self._epoch_order(*position)), None
        return self._loader(BatchDataset(self.train, self.labelled, training=True), self._order)

    def val_dataloader(self) -> DataLoader[Batch] | list[DataLoader[Batch]]:
        if self.val is None:
            return []
        order = EpochOrder(len(self.val), self.batch_size, self.seed, False, False, self._rank, self._world_size)
        # without an epoch: the same batches and seeds every time
        return self._loader(BatchDataset(self.val, self.labelled, training=False), order)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        self._raise_if_damaged()
        self._record_skipped(batch)
        batch = batch._replace(skipped=())
        if self.trainer is None or not self.trainer.training:
            return self.prepare_batch(batch, training=False)
        self._order.count_batch()
        return self.prepare_batch(batch, training=True)

    def teardown(self, stage: str) -> None:
        """Raise an error if the training used damaged images."""
        if stage == "fit":
            self._raise_if_damaged(wait=True)

    def _record_skipped(self, batch: Batch) -> None:
        """Record newly found damaged images; those found by worker processes are reported here."""
        before, self.remarks = self.remarks, self.remarks.with_skipped(batch.skipped)
        new = self.remarks.skipped[len(before.skipped) :]
        if new and self.num_workers:
            message = f"{len(new)} image(s) skipped that can no longer be decoded:\n{format_lines(new)}"
            warnings.warn(message, DataWarning, stacklevel=2)

    def _raise_if_damaged(self, wait: bool = False) -> None:
        for source in (self.train, self.val):
            if source is not None:
                source.raise_if_damaged(wait)

    def prepare_batch(self, batch: Batch, training: bool) -> Batch:
        """Convert a batch of pixels to floats for the model, on its device; augmented for training."""
        images = self.augmentation(batch.images, batch.seed) if self.augmentation and training else batch.images
        return batch._replace(images=images if images.is_floating_point() else from_pixels(images))

    def first_images(self, count: int) -> Batch:
        """Return the images of a new run's first batches as the model receives them, on the CPU.

        Loader processes and the position of the training are not involved.

        Args:
            count: Number of images, at least 1; fewer if an epoch has fewer.

        Returns:
            Images ``(N, C, H, W)`` in [-1, 1], augmented, their labels, and the seed of the first batch.
        """
        dataset, batches, found = BatchDataset(self.train, self.labelled, training=True), [], 0
        for draw in self._epoch_order(0, 0):
            loaded = dataset.__getitems__(draw)
            self._record_skipped(loaded)
            batches.append(self.prepare_batch(loaded._replace(skipped=()), training=True))
            found += len(loaded.images)
            if found >= count:
                break
        images = torch.cat([batch.images for batch in batches])[:count]
        labels = [batch.labels for batch in batches if batch.labels is not None]
        return Batch(images, torch.cat(labels)[:count] if labels else None, batches[0].seed)

    def state_dict(self) -> dict[str, Any]:
        """Return, as plain numbers, the position of the next training image and the values that define it."""
        epoch, seen = self._position()
        return {
            "epoch": epoch,
            "samples_seen": seen,
            "seed": self.seed,
            "length": len(self.train),
            "step_size": self._order.order.step_size,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume at a stored position, with the seed of the run that stored it.

        Raises:
            ValueError: the position is within an epoch, and the number of images has changed, so the rest of the epoch
                is undefined; or no batch of the current size starts there.
        """
        epoch, seen = state_dict["epoch"], state_dict["samples_seen"]
        where = f"to resume {seen} images into epoch {epoch}"
        if seen and state_dict["length"] != len(self.train):
            raise ValueError(
                f"data.paths.train must hold the {state_dict['length']} images of the resumed run {where}, "
                f"got {len(self.train)} (a checkpoint from the end of an epoch resumes with any number)"
            )
        if seen % self.step_size and seen < len(self.train):
            raise ValueError(
                f"data.loading.batch_size × devices must divide {seen} {where}, "
                f"got {self.step_size} (a checkpoint from the end of an epoch resumes with any batch size)"
            )
        self.seed, self._resume_at = state_dict["seed"], (epoch, seen)
        # does not apply to this loader: its position is in the data module's state
        warnings.filterwarnings("ignore", message=".*ended before the epoch ended and your dataloader is not resumable")

    def _position(self) -> tuple[int, int]:
        """Return (epoch, images seen in it) up to the last trained batch, not the last batch loaded by workers."""
        if self._resume_at is not None:
            return self._resume_at
        if self.trainer is None:
            return self._order.position(unfinished=0, batches_per_epoch=len(self._order))
        counts = self.trainer.fit_loop.epoch_loop.batch_progress.state_dict()["current"]
        return self._order.position(counts["ready"] - counts["processed"], self.trainer.num_training_batches)

    def _epoch_order(self, epoch: int, start: int) -> EpochOrder:
        return EpochOrder(
            len(self.train),
            self.batch_size,
            self.seed,
            self.shuffle,
            self.drop_last,
            self._rank,
            self._world_size,
            epoch,
            start,
        )

    @property
    def _rank(self) -> int:
        return self.trainer.global_rank if self.trainer else 0

    @property
    def _world_size(self) -> int:
        return self.trainer.world_size if self.trainer else 1

    def _loader(self, dataset: BatchDataset, order: Any) -> DataLoader[Batch]:
        # torch's type asks for lists of numbers, but it passes to the dataset whatever the order yields
        return SuspendableLoader(
            dataset,
            batch_sampler=order,
            collate_fn=_identity,
            num_workers=self.num_workers,
            multiprocessing_context=START_METHOD if self.num_workers else None,
            pin_memory=self.pin_memory,
            persistent_workers=self.num_workers > 0,
            timeout=self.worker_timeout if self.num_workers else 0,
            worker_init_fn=set_up_worker,
        )


def _identity(batch: Any) -> Any:
    """Return the batch, which the dataset has already collated."""
    return batch


def _check_match(train: ImageSource, val: ImageSource | None) -> None:
    if val is None:
        return
    for name in ("image_size", "channels", "class_names"):
        if getattr(train, name) != getattr(val, name):
            raise ValueError(
                f"{name} of the validation images must be that of the training images, "
                f"{getattr(train, name)}, got {getattr(val, name)}"
            )
    if not len(val):
        raise ValueError("data.paths.val holds no images to validate on")
