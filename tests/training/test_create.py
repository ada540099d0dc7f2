"""Settings that are passed on to objects."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from diffusion_lab.create import create_denoiser
from diffusion_lab.data.augmentation import Augmentation
from diffusion_lab.data.datamodule import ImageDataModule
from diffusion_lab.diffusion.penalty import HuberError
from diffusion_lab.diffusion.time_distribution import LogitNormalTimes
from diffusion_lab.diffusion.weighting import MinSNRWeighting
from diffusion_lab.guidance import Guidance
from diffusion_lab.runs.folder import RunFolder
from diffusion_lab.training import create
from diffusion_lab.training.callbacks import SampleImages
from diffusion_lab.training.create import create_callbacks, create_module
from diffusion_lab.training.module import DiffusionModule
from diffusion_lab.training.sources import create_datamodule
from tests.training.tiny import tiny_config, tiny_trainer


def data_of(folder: Path, **changes: Any) -> ImageDataModule:
    """Return the data of a tiny run; ``changes`` are keys of the data section, with __ for the dot."""
    values = {f"data.{name.replace('__', '.')}": value for name, value in changes.items()}
    return create_datamodule(tiny_config(folder, values), seed=0)


def module_of(folder: Path, changes: dict[str, Any]) -> DiffusionModule:
    config = tiny_config(folder, changes)
    data = create_datamodule(config, seed=0)
    return create_module(config, create_denoiser(config.model), data, config.model_dump(mode="json"))


@pytest.mark.parametrize("yes", [True, False])
def test_loading_reaches_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, yes: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # page-locked memory is for GPUs alone
    loading = {"batch_size": 4 + yes, "num_workers": 1 + yes, "pin_memory": yes, "shuffle_train": yes, "drop_last": yes}
    data = data_of(tmp_path, **{f"loading__{name}": value for name, value in loading.items()})
    reached = (data.batch_size, data.num_workers, data.pin_memory, data.shuffle, data.drop_last)
    assert reached == tuple(loading.values())


@pytest.mark.parametrize("yes", [True, False])
def test_augmentation_reaches_the_data(tmp_path: Path, yes: bool) -> None:
    data = data_of(
        tmp_path,
        augmentation__horizontal_flip=yes,
        augmentation__rotation_degrees=7.0 * yes,
        augmentation__color_jitter__enabled=yes,
        augmentation__color_jitter__strength=0.3,
    )
    assert data.augmentation == Augmentation(yes, 7.0 * yes, 0.3 * yes)


@pytest.mark.parametrize("conditional", [True, False])
def test_data_yields_labels_if_the_model_is_conditional(tmp_path: Path, conditional: bool) -> None:
    unconditional = {"model.conditioning.type": None, "model.conditioning.num_classes": None}
    config = tiny_config(tmp_path, {} if conditional else unconditional)
    assert create_datamodule(config, seed=0).labelled is conditional


def test_image_size_and_channels_of_the_data_are_those_of_the_model(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, {"model.architecture.image_size": 12, "model.architecture.in_channels": 3})
    images = create_datamodule(config, seed=0).train
    assert (images.image_size, images.channels) == (12, 3)


SWITCHES = [
    (torch.backends.cuda.matmul, "allow_tf32"),
    (torch.backends.cudnn, "allow_tf32"),
    (torch.backends.cudnn, "benchmark"),
]
"""Global flags of torch."""


@pytest.fixture
def as_they_were() -> Iterator[None]:
    """Restore the flags after the test."""
    before = [getattr(place, name) for place, name in SWITCHES]
    yield
    for (place, name), value in zip(SWITCHES, before, strict=True):
        setattr(place, name, value)


@pytest.mark.usefixtures("as_they_were")
@pytest.mark.parametrize("yes", [True, False])
def test_performance_flags_reach_torch(tmp_path: Path, yes: bool) -> None:
    for place, name in SWITCHES:
        setattr(place, name, not yes)
    tiny_trainer(tmp_path, [], {"training.performance.use_tf32": yes, "training.performance.cudnn_benchmark": yes})
    assert [getattr(place, name) for place, name in SWITCHES] == [yes] * 3


@pytest.mark.parametrize("yes", [True, False])
def test_network_is_compiled_if_requested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, yes: bool) -> None:
    compiled: list[nn.Module] = []
    monkeypatch.setattr(create, "compile_in_place", compiled.append)
    module = module_of(tmp_path, {"training.performance.compile_model": yes})
    assert module.ema is not None
    assert compiled == [module.denoiser.network, module.ema.average.network] * yes


@pytest.mark.parametrize("share", [0.0, 0.4])
def test_label_dropout_reaches_the_loss(tmp_path: Path, share: float) -> None:
    module = module_of(tmp_path, {"model.conditioning.class_dropout_prob": share})
    assert module.loss.label_dropout == share


def test_loss_has_the_options_of_the_settings(tmp_path: Path) -> None:
    loss = module_of(
        tmp_path,
        {
            "training.loss.penalty": {"type": "huber", "delta": 0.3},
            "training.loss.weighting": {"type": "min_snr"},
            "training.loss.times": {"type": "logit_normal", "std": 2.0},
            "training.loss.stratified": False,
        },
    ).loss
    assert (loss.penalty, loss.weighting, loss.stratified) == (HuberError(0.3), MinSNRWeighting(5.0), False)
    assert loss.times == LogitNormalTimes(0.0, 2.0)


@pytest.mark.parametrize(("enabled", "decay", "warmup"), [(True, 0.5, False), (True, 0.9, True), (False, 0.9, True)])
def test_ema_has_the_options_of_the_settings(tmp_path: Path, enabled: bool, decay: float, warmup: bool) -> None:
    values = {"enabled": enabled, "decay": decay, "warmup": warmup}
    ema = module_of(tmp_path, {f"training.ema.{name}": value for name, value in values.items()}).ema
    assert (ema is not None) is enabled
    if ema is not None:
        assert (ema.decay, ema.warmup) == (decay, warmup)


def test_further_averages_have_the_decays_of_the_settings(tmp_path: Path) -> None:
    ema = module_of(tmp_path, {"training.ema.decay": 0.9, "training.ema.further_decays": [0.5, 0.99]}).ema
    assert ema is not None
    assert list(ema.decays.values()) == [0.9, 0.5, 0.99]


def test_guidance_reaches_the_sample_images(tmp_path: Path) -> None:
    changes = {"training.visualization.enabled": True, "guidance": {"interval": [0.5, 2], "rescale": 0.3}}
    config = tiny_config(tmp_path, changes)
    callbacks, _ = create_callbacks(
        config, create_denoiser(config.model), RunFolder.from_settings(config.output), seed=0
    )
    (pictures,) = (callback for callback in callbacks if isinstance(callback, SampleImages))
    assert pictures.guidance == Guidance(interval=(0.5, 2), rescale=0.3)
