"""Batches as a real Trainer sees them, in one go and interrupted wherever a checkpoint can be saved."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

import diffusion_lab  # noqa: F401  (lets lightning be imported)

pytest.importorskip("lightning")
import lightning.pytorch as pl

from diffusion_lab.data.augmentation import Augmentation
from diffusion_lab.data.datamodule import BatchDataset, ImageDataModule
from diffusion_lab.data.image_folder import ImageFolderSource
from diffusion_lab.data.order import Draw, EpochOrder
from diffusion_lab.data.source import ArraySource

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec")
SIZE = 10


def source(length=SIZE, names=("even", "odd"), channels=1, image_size=4) -> ArraySource:
    """Image i is filled with the value i, so a batch shows which images it holds."""
    images = np.arange(length, dtype=np.uint8)[:, None, None, None]
    images = np.tile(images, (1, channels, image_size, image_size))
    return ArraySource(images, np.arange(length) % max(1, len(names)), names)


def module(train=None, val=None, **options) -> ImageDataModule:
    return ImageDataModule(train or source(), val, **{"batch_size": 3, "labelled": True, **options})


class Recorder(pl.LightningModule):
    """Trains one number, and notes the images and the seed of every batch."""

    def __init__(self, crash_at=None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.trained, self.validated, self.crash_at = [], [], crash_at

    def note(self, batch):
        values = ((batch.images[:, 0, 0, 0] + 1) * 127.5).round().int().tolist()
        return self.current_epoch, values, batch.seed

    def training_step(self, batch, batch_idx):
        if self.global_step == self.crash_at:
            raise InterruptedError
        self.trained.append((*self.note(batch), batch_idx))
        return self.weight * batch.images.mean()

    def validation_step(self, batch, batch_idx):
        assert not self.trainer.training
        self.validated.append(self.note(batch)[1:])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class SaveEverywhere(pl.Callback):
    """Saves at each place where callbacks save: after a batch, after validation, after an epoch."""

    def __init__(self, folder):
        self.folder = folder

    def save(self, trainer, moment):
        trainer.save_checkpoint(self.folder / f"{trainer.global_step:02}-{moment}.ckpt")

    def on_train_batch_end(self, trainer, *args):
        self.save(trainer, "batch")

    def on_validation_end(self, trainer, *args):
        self.save(trainer, "validation")

    def on_train_epoch_end(self, trainer, *args):
        self.save(trainer, "epoch")

    def on_exception(self, trainer, *args):
        self.save(trainer, "exception")


def fit(data, recorder=None, checkpoint=None, callbacks=(), **options) -> Recorder:
    recorder = recorder or Recorder()
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=options.pop("max_epochs", 3),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        limit_val_batches=1.0 if data.val else 0,
        callbacks=list(callbacks),
        **options,
    )
    trainer.fit(recorder, datamodule=data, ckpt_path=checkpoint)
    return recorder


def batch_of(data: ImageDataModule, number=0):
    """A training batch as loaded, before its transfer."""
    return list(data.train_dataloader())[number]


def test_a_batch_holds_pixels_labels_and_the_seed_of_its_draw():
    batch = batch_of(module(seed=5))
    draw = next(iter(EpochOrder(SIZE, 3, 5, True, False)))
    assert batch.images.dtype == torch.uint8
    assert batch.images[:, 0, 0, 0].tolist() == list(draw.indices)
    assert batch.labels.tolist() == [index % 2 for index in draw.indices]
    assert batch.labels.dtype == torch.int64
    assert batch.seed == draw.seed


@pytest.mark.parametrize(("count", "found"), [(2, 2), (5, 5), (99, SIZE)])
def test_first_images_are_those_of_the_training(count, found):
    data = module(augmentation=Augmentation(horizontal_flip=True), num_workers=2, seed=5)
    batch = data.first_images(count)
    trained = [value for epoch, values, *_ in fit(module(seed=5)).trained if epoch == 0 for value in values]
    assert ((batch.images[:, 0, 0, 0] + 1) * 127.5).round().int().tolist() == trained[:found]
    assert batch.labels.tolist() == [value % 2 for value in trained[:found]]


def test_without_labels_there_are_none():
    assert batch_of(module(labelled=False)).labels is None


def test_properties():
    data = module(source(10), batch_size=4)
    assert (data.class_names, data.num_classes, data.steps_per_epoch) == (("even", "odd"), 2, 3)
    assert module(source(10), batch_size=4, drop_last=True).steps_per_epoch == 2
    assert module(source(names=())).num_classes == 0


def test_on_the_device_images_are_floats_between_minus_one_and_one():
    data = module(ArraySource(np.array([0, 255] * 8, np.uint8).reshape(1, 1, 4, 4), [0], ()))
    images = data.on_after_batch_transfer(batch_of(data), 0).images
    assert images.dtype == torch.float32
    assert set(images.ravel().tolist()) == {-1.0, 1.0}


def test_the_random_crop_follows_the_seed_of_the_batch(tmp_path):
    from PIL import Image

    for number in range(3):
        columns = np.tile(np.arange(64, dtype=np.uint8) * 4, (8, 1))
        Image.fromarray(columns).save(tmp_path / f"{number}.png")
    dataset = BatchDataset(ImageFolderSource(tmp_path, 8, 1, crop="random"), labelled=False, training=True)
    first, again, other = (dataset.__getitems__(Draw((0, 1, 2), seed)).images for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len({image.numpy().tobytes() for image in first}) > 1
    fixed = BatchDataset(dataset.source, labelled=False, training=False)
    assert torch.equal(fixed.__getitems__(Draw((0,), 1)).images, fixed.__getitems__(Draw((0,), 2)).images)


def test_training_is_augmented_and_validation_is_not():
    seen = []

    class Witness(Augmentation):
        def __call__(self, images, seed):
            seen.append(seed)
            return images

    data = module(val=source(), augmentation=Witness())
    recorder = fit(data, max_epochs=2)
    assert len(recorder.trained) == len(seen) == len(set(seen)) == 8
    assert len(recorder.validated) == 8


def test_validation_is_the_same_every_epoch_and_loses_no_image():
    recorder = fit(module(val=source(), drop_last=True), max_epochs=3)
    assert len(recorder.trained) == 9
    assert recorder.validated[:4] == recorder.validated[4:8] == recorder.validated[8:]
    assert [images for images, _ in recorder.validated[:4]] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]
    assert len({seed for _, seed in recorder.validated}) == 4


@pytest.mark.parametrize("num_workers", [0, 2])
def test_real_run_follows_the_order(num_workers):
    recorder = fit(module(num_workers=num_workers, seed=7))
    expected = [
        (epoch, list(draw.indices), draw.seed, number)
        for epoch in range(3)
        for number, draw in enumerate(EpochOrder(SIZE, 3, 7, True, False, epoch=epoch))
    ]
    assert recorder.trained == expected


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Return the training batches of a run of three epochs, and all its checkpoints."""
    folder = tmp_path_factory.mktemp("checkpoints")
    recorder = fit(module(val=source(4)), callbacks=[SaveEverywhere(folder)])
    return recorder.trained, folder


PLACES = [f"{step:02}-batch" for step in range(1, 13)]
PLACES += [f"{step:02}-{moment}" for step in (4, 8) for moment in ("validation", "epoch")]


@pytest.mark.parametrize("place", PLACES)
def test_resumed_run_trains_on_exactly_the_rest(uninterrupted, place):
    trained, folder = uninterrupted
    data = module(val=source(4), seed=999)  # the stored seed counts, or the order would be another
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*dataloader is not resumable")
        resumed = fit(data, checkpoint=folder / f"{place}.ckpt")
    assert resumed.trained == trained[int(place[:2]) :]


@pytest.mark.parametrize("place", ["03-batch", "04-batch", "06-batch", "08-validation", "08-epoch"])
def test_resumed_run_with_two_workers_trains_on_exactly_the_rest(uninterrupted, place):
    trained, folder = uninterrupted
    resumed = fit(module(val=source(4), num_workers=2), checkpoint=folder / f"{place}.ckpt")
    assert resumed.trained == trained[int(place[:2]) :]


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("crash_at", [0, 2, 4, 7])
def test_crashed_run_resumes_with_the_failed_batch(uninterrupted, tmp_path, crash_at, num_workers):
    trained, _ = uninterrupted
    data = module(val=source(4), num_workers=num_workers)
    with pytest.raises(InterruptedError):
        fit(data, Recorder(crash_at), callbacks=[SaveEverywhere(tmp_path)])
    resumed = fit(module(val=source(4)), checkpoint=tmp_path / f"{crash_at:02}-exception.ckpt")
    assert resumed.trained == trained[crash_at:]


def test_a_run_interrupted_twice(uninterrupted, tmp_path):
    trained, folder = uninterrupted
    second = fit(module(val=source(4)), checkpoint=folder / "02-batch.ckpt", callbacks=[SaveEverywhere(tmp_path)])
    assert second.trained == trained[2:]
    for place in ("03-batch", "04-batch", "04-epoch", "07-batch", "08-validation"):
        third = fit(module(val=source(4)), checkpoint=tmp_path / f"{place}.ckpt")
        assert third.trained == trained[int(place[:2]) :], place


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_run_counted_in_steps_resumes_as_well(uninterrupted, tmp_path, num_workers):
    trained, _ = uninterrupted
    options = {"max_steps": 10, "max_epochs": -1}
    fit(module(val=source(4)), callbacks=[SaveEverywhere(tmp_path)], **options)
    for place in ("03-batch", "04-batch", "04-validation", "04-epoch", "06-batch"):
        resumed = fit(module(val=source(4), num_workers=num_workers), checkpoint=tmp_path / f"{place}.ckpt", **options)
        assert resumed.trained == trained[int(place[:2]) : 10], place


def test_accumulated_batches_resume_as_well(tmp_path):
    """Each step takes two batches, so the fourth step ends the second epoch."""
    options = {"accumulate_grad_batches": 2}
    whole = fit(module(), callbacks=[SaveEverywhere(tmp_path)], **options)
    assert len(whole.trained) == 12
    resumed = fit(module(), checkpoint=tmp_path / "04-epoch.ckpt", **options)
    assert resumed.trained == whole.trained[8:]


def test_shortened_epochs_resume_as_well(tmp_path):
    options = {"limit_train_batches": 2}
    whole = fit(module(), callbacks=[SaveEverywhere(tmp_path)], **options)
    for place in ("01-batch", "02-batch", "02-epoch", "03-batch"):
        resumed = fit(module(), checkpoint=tmp_path / f"{place}.ckpt", **options)
        assert resumed.trained == whole.trained[int(place[:2]) :], place


def test_state_is_plain_numbers_with_the_position(uninterrupted):
    _, folder = uninterrupted
    for place, epoch, seen in [
        ("03-batch", 0, 9),
        ("04-batch", 1, 0),
        ("06-batch", 1, 6),
        ("08-epoch", 2, 0),
    ]:
        state = torch.load(folder / f"{place}.ckpt", weights_only=True)["ImageDataModule"]
        assert state == {"epoch": epoch, "samples_seen": seen, "seed": 0, "length": SIZE, "step_size": 3}


def test_state_before_training_is_the_start_or_the_loaded_one():
    data = module()
    assert (data.state_dict()["epoch"], data.state_dict()["samples_seen"]) == (0, 0)
    state = {**data.state_dict(), "epoch": 4, "samples_seen": 6, "seed": 8}
    data.load_state_dict(state)
    assert data.state_dict() == state


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"train": source(11)},
            r"data\.paths\.train must hold the 10 images .*6 images into epoch 1, got 11",
        ),
        ({"batch_size": 4}, r"data\.loading\.batch_size × devices must divide 6 .*6 images into epoch 1, got 4"),
    ],
)
def test_position_within_an_epoch_needs_the_same_data_and_batch_size(options, message):
    state = {**module().state_dict(), "epoch": 1, "samples_seen": 6}
    with pytest.raises(ValueError, match=message):
        module(**options).load_state_dict(state)
    changed = module(**options)
    changed.load_state_dict({**state, "samples_seen": 0})
    assert changed.state_dict()["epoch"] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 11, "drop_last": True}, r"data\.loading\.batch_size = 11 .*drop_last = True"),
        ({"val": source(names=("a", "b"))}, r"class_names .*\('even', 'odd'\), got \('a', 'b'\)"),
        ({"val": source(channels=3)}, "channels of the validation images .*1, got 3"),
        ({"val": source(image_size=8)}, "image_size of the validation images .*4, got 8"),
        ({"val": source(0)}, r"data\.paths\.val holds no images"),
    ],
)
def test_unusable_data_is_refused_immediately(options, message):
    with pytest.raises(ValueError, match=message):
        module(**options)


def test_second_run_with_the_same_data_starts_over():
    data = module()
    first = fit(data, max_epochs=2)
    assert fit(data, max_epochs=2).trained == first.trained
