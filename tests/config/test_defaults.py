from __future__ import annotations

import doctest
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from diffusion_lab.config import (
    defaults,
    derive_image_size_from_model,
    derive_return_labels_from_model,
    derived,
    get_default_config,
    parse_config,
    resolve_output_path,
    validate,
)
from tests.config.conftest import Change

DEFAULTS: dict[str, object] = {
    "experiment": "diffusion",
    "mode": "train",
    "compute.device": "cuda",
    "compute.seed": None,
    "model.architecture.image_size": 40,
    "model.architecture.in_channels": 3,
    "model.architecture.model_channels": 64,
    "model.architecture.channel_multipliers": [1, 2, 4],
    "model.architecture.use_attention": [False, False, True],
    "model.diffusion.num_timesteps": 1000,
    "model.diffusion.beta_schedule": "cosine",
    "model.diffusion.beta_start": 0.0001,
    "model.diffusion.beta_end": 0.02,
    "model.conditioning.type": None,
    "model.conditioning.num_classes": None,
    "model.conditioning.class_dropout_prob": 0.1,
    "data.paths.train": "data/train",
    "data.paths.val": None,
    "data.loading.batch_size": 32,
    "data.loading.num_workers": 4,
    "data.loading.pin_memory": True,
    "data.loading.shuffle_train": True,
    "data.loading.drop_last": False,
    "data.augmentation.horizontal_flip": True,
    "data.augmentation.rotation_degrees": 0,
    "data.augmentation.color_jitter.enabled": False,
    "data.augmentation.color_jitter.strength": 0.1,
    "output.base_dir": "outputs",
    "output.subdirs.logs": "logs",
    "output.subdirs.checkpoints": "checkpoints",
    "output.subdirs.samples": "samples",
    "output.subdirs.generated": "generated",
    "training.epochs": 200,
    "training.optimizer.type": "adam",
    "training.optimizer.learning_rate": 0.0001,
    "training.optimizer.weight_decay": 0.0,
    "training.optimizer.betas": [0.9, 0.999],
    "training.optimizer.gradient_clip_norm": None,
    "training.scheduler.type": None,
    "training.scheduler.T_max": "auto",
    "training.scheduler.eta_min": 1.0e-6,
    "training.ema.enabled": True,
    "training.ema.decay": 0.9999,
    "training.checkpointing.save_frequency": 10,
    "training.checkpointing.save_best_only": False,
    "training.checkpointing.save_optimizer": True,
    "training.validation.enabled": True,
    "training.validation.frequency": 1,
    "training.validation.metric": "loss",
    "training.visualization.enabled": True,
    "training.visualization.interval": 10,
    "training.visualization.num_samples": 8,
    "training.visualization.guidance_scale": 3.0,
    "training.performance.use_amp": False,
    "training.performance.use_tf32": True,
    "training.performance.cudnn_benchmark": True,
    "training.performance.compile_model": False,
    "training.resume.enabled": False,
    "training.resume.checkpoint": None,
    "training.resume.reset_optimizer": False,
    "training.resume.reset_scheduler": False,
    "generation.checkpoint": None,
    "generation.sampling.num_samples": 100,
    "generation.sampling.guidance_scale": 3.0,
    "generation.sampling.use_ema": True,
    "generation.output.save_individual": True,
    "generation.output.save_grid": True,
    "generation.output.grid_nrow": 10,
}
"""The V2 format, row by row."""


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in tree.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found


def test_default_of_each_row() -> None:
    found = flat(get_default_config())
    assert found == DEFAULTS
    assert [type(value) for value in found.values()] == [type(DEFAULTS[key]) for key in found]  # true is no 1


@pytest.mark.parametrize("module", [defaults, derived, validate], ids=lambda module: module.__name__)
def test_examples_in_docstrings(module: ModuleType) -> None:
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


def test_default_tree_is_new_each_time() -> None:
    get_default_config()["model"]["architecture"]["channel_multipliers"].append(8)
    assert get_default_config()["model"]["architecture"]["channel_multipliers"] == [1, 2, 4]


@pytest.mark.parametrize("name", ["logs", "checkpoints", "samples", "generated"])
def test_output_path(changed: Change, name: str) -> None:
    tree = changed({"output.base_dir": "runs/a", f"output.subdirs.{name}": "b/c"})
    assert resolve_output_path(tree, name) == Path("runs/a/b/c")
    assert parse_config(tree).output.folder(name) == Path("runs/a/b/c")  # type: ignore[arg-type]


def test_an_unknown_output_path_is_reported(changed: Change) -> None:
    with pytest.raises(
        ValueError, match=r"output\.subdirs\.checkpoint: unknown .* \(did you mean 'output.subdirs.checkpoints'\?\)"
    ):
        resolve_output_path(changed({}), "checkpoint")


def test_derived_from_the_model(changed: Change) -> None:
    assert derive_image_size_from_model(changed({"model.architecture.image_size": 8})) == 8
    conditional = {"model.conditioning.type": "class", "model.conditioning.num_classes": 2}
    assert derive_return_labels_from_model(changed(conditional)) is True
    assert derive_return_labels_from_model(changed({"model.conditioning.num_classes": 2})) is False


def test_nothing_is_derived_from_an_incomplete_tree() -> None:
    with pytest.raises(ValueError, match=r"model\.architecture\.image_size: required, but missing"):
        derive_image_size_from_model({"model": {}})
    with pytest.raises(ValueError, match=r"model\.conditioning\.type: required, but missing"):
        derive_return_labels_from_model({})
    with pytest.raises(ValueError, match=r"output\.base_dir: required, but missing"):
        resolve_output_path({}, "logs")
