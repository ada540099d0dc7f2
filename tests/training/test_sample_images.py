from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image

from diffusion_lab.config import ConfigWarning
from diffusion_lab.guidance import Guidance
from diffusion_lab.image_grids import GAP, MIN_CELL, class_grid
from diffusion_lab.samplers import DDIMSampler, DDPMSampler
from diffusion_lab.sampling import DiffusionSampler
from diffusion_lab.shapes import Images, to_pixels
from diffusion_lab.training.callbacks import EMACallback, SampleImages
from diffusion_lab.training.module import DiffusionModule
from tests.training.tiny import CLASSES, tiny_fit

FROZEN = {"training.optimizer.learning_rate": 1e-30}  # the weights stay as they are
UNCONDITIONAL = {"model.conditioning": {"type": None, "num_classes": None, "class_dropout_prob": 0.1}}


class Disturb(Callback):
    """Changes the initial weights, since the untrained network outputs zero, and disturbs torch's random state."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, DiffusionModule)
        assert pl_module.ema is not None
        for weight, average in zip(pl_module.denoiser.parameters(), pl_module.ema.average.parameters(), strict=True):
            weight.data += 0.05 * torch.randn_like(weight)
            average.data.copy_(weight.data)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        torch.manual_seed(trainer.current_epoch)


def pictures(folder: Path, **changes: Any) -> SampleImages:
    options: dict[str, Any] = {"every_epochs": 1, "num_samples": 7, "guidance_scale": 2.0, "seed": 0}
    return SampleImages(folder, changes.pop("sampler", DDPMSampler(steps=3)), **(options | changes))


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def test_same_noise_in_successive_epochs(tmp_path: Path) -> None:
    """With constant weights the images are constant: the initial noise and that of each step are the same."""
    tiny_fit(tmp_path, [Disturb(), pictures(tmp_path / "a")], FROZEN)
    first, second = (read(tmp_path / "a" / f"epoch_000{epoch}.png") for epoch in (1, 2))
    assert np.array_equal(first, second)
    tiny_fit(tmp_path, [Disturb(), pictures(tmp_path / "b", seed=1)], FROZEN)
    assert not np.array_equal(first, read(tmp_path / "b" / "epoch_0001.png"))


@pytest.mark.parametrize("guidance", [Guidance(), Guidance(interval=(0.0, 1.0), rescale=0.5)], ids=str)
def test_one_row_per_class_sampled_from_the_ema(tmp_path: Path, guidance: Guidance) -> None:
    changes = {"training.optimizer.learning_rate": 0.05, "training.ema.decay": 0.9}
    shown = pictures(tmp_path / "p", sampler=DDIMSampler(steps=2), guidance=guidance)
    _, module = tiny_fit(tmp_path, [EMACallback(), shown], changes)
    assert module.ema is not None
    labels = [0, 1, 2, 0, 1, 2, 0]  # the remainder goes to the first classes
    picture = read(tmp_path / "p" / "epoch_0002.png")
    cell = MIN_CELL + GAP
    assert picture.shape[0] == 3 * cell + GAP
    assert picture.shape[1] > 3 * cell  # three columns, and the names of the classes next to them

    def drawn(denoiser: Any) -> np.ndarray:
        method = DDIMSampler(steps=2)
        images = DiffusionSampler(denoiser).sample(7, labels, 2.0, sampler=method, guidance=guidance, seed=0)
        return np.asarray(class_grid(to_pixels(images), labels, CLASSES))

    assert np.array_equal(picture, drawn(module.ema.average))
    assert not np.array_equal(picture, drawn(module.denoiser))


@pytest.mark.parametrize(("every", "expected"), [(2, ["epoch_0002.png", "epoch_0003.png"]), (9, ["epoch_0003.png"])])
def test_images_are_sampled_periodically_and_after_the_last_epoch(
    tmp_path: Path, every: int, expected: list[str]
) -> None:
    changes = {"training.epochs": 3, "training.validation.enabled": False, **UNCONDITIONAL}
    tiny_fit(tmp_path, [pictures(tmp_path / "p", every_epochs=every, num_samples=4)], changes)
    assert sorted(path.name for path in (tmp_path / "p").iterdir()) == expected
    assert read(tmp_path / "p" / expected[0]).shape == (2 * (MIN_CELL + GAP) + GAP, 2 * (MIN_CELL + GAP) + GAP, 3)


def test_sample_images_do_not_change_the_training(tmp_path: Path) -> None:
    _, plain = tiny_fit(tmp_path, [EMACallback()])
    _, shown = tiny_fit(tmp_path, [EMACallback(), pictures(tmp_path / "p")])
    weights = shown.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in plain.state_dict().items())


class Overflowing(DDPMSampler):
    """A sampler whose steps overflow."""

    def step(self, noisy: Images, *_: Any) -> Images:
        return noisy * float("inf")


def test_non_finite_images_are_skipped_and_training_continues(tmp_path: Path) -> None:
    with pytest.warns(ConfigWarning, match="NaN or infinity at step 1 of 3 in image 0 and 6 more") as caught:
        trainer, _ = tiny_fit(tmp_path, [pictures(tmp_path / "p", sampler=Overflowing(steps=3))])
    messages = [str(warning.message) for warning in caught if warning.category is ConfigWarning]
    assert [text.partition(":")[0] for text in messages] == [f"epoch {epoch} has no sample images" for epoch in (1, 2)]
    assert trainer.current_epoch == 2
    assert not (tmp_path / "p").exists()
