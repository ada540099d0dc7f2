"""Migration from V1 to V2, row by row of the format's table, and keys that cannot be kept."""

from __future__ import annotations

import copy
import doctest
import os
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from omegaconf import OmegaConf

from diffusion_lab.cli.yaml_file import read_yaml
from diffusion_lab.config import (
    ConfigDeprecationWarning,
    ConfigError,
    ConfigWarning,
    get_default_config,
    is_v1,
    is_v2,
    migrate_config_v1_to_v2,
    resolve_output_path,
    v1_deprecation,
    validate_config,
)
from diffusion_lab.typed_settings.settings_reader import leaves
from diffusion_lab.v1 import folders as v1_folders
from diffusion_lab.v1 import format as v1_format
from diffusion_lab.v1 import migration
from diffusion_lab.v1.migration import V1_IS_REMOVED_IN
from diffusion_lab.version import __version__
from tests.config.conftest import put
from tests.recorded_warnings import recorded_warnings

FIXTURES = Path(__file__).parents[1] / "fixtures" / "configs" / "diffusion"
V1_FILES = ("v1_full", "v1_older_layout", "v1_minimal")

# Section 4 of the specification: what a V1 file says, and what the V2 tree then holds.
PLATEAU = {
    "mode": "max",
    "factor": 0.3,
    "patience": 2,
    "threshold": 0.01,
    "threshold_mode": "abs",
    "cooldown": 1,
    "min_lr": 1e-6,
    "eps": 1e-9,
}
FURTHER = {
    "foreach": False,
    "maximize": False,
    "capturable": False,
    "differentiable": False,
    "decoupled_weight_decay": True,
}

ROWS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "device, seed": ({"device": "mps", "seed": 0}, {"compute.device": "mps", "compute.seed": 0}),
    "model: architecture": (
        {
            "model.image_size": 64,
            "model.in_channels": 4,
            "model.model_channels": 24,
            "model.channel_multipliers": [1, 3],
            "model.use_attention": [False, True],
        },
        {
            "model.architecture.image_size": 64,
            "model.architecture.in_channels": 4,
            "model.architecture.model_channels": 24,
            "model.architecture.channel_multipliers": [1, 3],
            "model.architecture.use_attention": [False, True],
        },
    ),
    "model: diffusion": (
        {
            "model.num_timesteps": 10,
            "model.beta_schedule": "sigmoid",
            "model.beta_start": 0.001,
            "model.beta_end": 0.1,
        },
        {
            "model.diffusion.num_timesteps": 10,
            "model.diffusion.beta_schedule": "sigmoid",
            "model.diffusion.beta_start": 0.001,
            "model.diffusion.beta_end": 0.1,
        },
    ),
    "model: conditioning": (
        {"model.num_classes": 7, "model.class_dropout_prob": 0.3},
        {
            "model.conditioning.num_classes": 7,
            "model.conditioning.class_dropout_prob": 0.3,
            "model.conditioning.type": "class",
        },
    ),
    "model: no classes": (
        {"model.num_classes": None},
        {"model.conditioning.num_classes": None, "model.conditioning.type": None},
    ),
    "data: paths": (
        {"data.train_path": "a", "data.val_path": "b"},
        {"data.paths.train": "a", "data.paths.val": "b"},
    ),
    "data: loading": (
        {
            "data.batch_size": 5,
            "data.num_workers": 0,
            "data.pin_memory": False,
            "data.shuffle_train": False,
            "data.drop_last": True,
        },
        {
            "data.loading.batch_size": 5,
            "data.loading.num_workers": 0,
            "data.loading.pin_memory": False,
            "data.loading.shuffle_train": False,
            "data.loading.drop_last": True,
        },
    ),
    "data: augmentation": (
        {
            "data.horizontal_flip": False,
            "data.rotation_degrees": 20,
            "data.color_jitter": True,
            "data.color_jitter_strength": 0.4,
        },
        {
            "data.augmentation.horizontal_flip": False,
            "data.augmentation.rotation_degrees": 20,
            "data.augmentation.color_jitter.enabled": True,
            "data.augmentation.color_jitter.strength": 0.4,
        },
    ),
    "data: derived": (
        {"data.image_size": 16, "model.image_size": 16, "data.return_labels": True, "model.num_classes": 2},
        {
            "model.architecture.image_size": 16,
            "model.conditioning.type": "class",
            "model.conditioning.num_classes": 2,
        },
    ),
    "training: epochs": ({"training.epochs": 3, "seed": 1}, {"training.epochs": 3, "compute.seed": 1}),
    "training: optimizer": (
        {
            "training.optimizer": "adamw",
            "training.learning_rate": 0.002,
            "training.gradient_clip_norm": 2.0,
            "training.optimizer_kwargs": {
                "betas": [0.5, 0.9],
                "weight_decay": 0.1,
                "eps": 1e-6,
                "amsgrad": True,
                "fused": False,
            },
        },
        {
            "training.optimizer": {
                "type": "adamw",
                "learning_rate": 0.002,
                "weight_decay": 0.1,
                "betas": [0.5, 0.9],
                "gradient_clip_norm": 2.0,
                "eps": 1e-6,
                "amsgrad": True,
                "fused": False,
            }
        },
    ),
    "training: learning rate by torch's name": (
        {"training.optimizer_kwargs": {"lr": 0.5}},
        {"training.optimizer.learning_rate": 0.5},
    ),
    "training: optimizer without options": (
        {"training.optimizer": "adamw", "training.optimizer_kwargs": None},
        {"training.optimizer.type": "adamw", "training.optimizer.betas": [0.9, 0.999]},
    ),
    "training: scheduler none": (
        {"training.scheduler": "none"},
        {"training.scheduler": {"type": None, "T_max": "auto", "eta_min": 1e-6}},
    ),
    "training: scheduler null, options ready": (
        {"training.scheduler": None, "training.scheduler_kwargs": {"T_max": 200}},
        {"training.scheduler": {"type": None, "T_max": 200, "eta_min": 1e-6}},
    ),
    "training: scheduler cosine": (
        {"training.scheduler": "cosine", "training.scheduler_kwargs": {"eta_min": 1e-5}},
        {"training.scheduler": {"type": "cosine", "T_max": "auto", "eta_min": 1e-5}},
    ),
    "training: scheduler step": (
        {"training.scheduler": "step", "training.scheduler_kwargs": {"step_size": 4, "gamma": 0.2}},
        {"training.scheduler": {"type": "step", "step_size": 4, "gamma": 0.2}},
    ),
    "training: scheduler plateau": (
        {"training.scheduler": "plateau", "training.scheduler_kwargs": PLATEAU},
        {"training.scheduler": {"type": "plateau", **PLATEAU}},
    ),
    "training: scheduler that is under way": (
        {"training.scheduler": "step", "training.scheduler_kwargs": {"step_size": 4, "last_epoch": 2}},
        {"training.scheduler": {"type": "step", "step_size": 4, "last_epoch": 2}},
    ),
    "training: names in other cases, none for null": (
        {"training.optimizer": "AdamW", "training.scheduler": "Cosine", "model.beta_schedule": "Linear"}
        | {"model.num_classes": "None", "device": "CUDA", "seed": "none"},
        {"training.optimizer.type": "adamw", "training.scheduler.type": "cosine"}
        | {"model.diffusion.beta_schedule": "linear", "compute.device": "cuda"},
    ),
    "training: further arguments of torch's optimizer": (
        {"training.optimizer_kwargs": FURTHER},
        {f"training.optimizer.{name}": value for name, value in FURTHER.items()},
    ),
    "training: ema": (
        {"training.use_ema": False, "training.ema_decay": 0.5},
        {"training.ema.enabled": False, "training.ema.decay": 0.5},
    ),
    "training: ema as a section": (
        {"device": "cpu", "training.ema": {"enabled": False, "decay": 0.5}},
        {"compute.device": "cpu", "training.ema.enabled": False, "training.ema.decay": 0.5},
    ),
    "training: checkpointing": (
        {"training.save_frequency": 2, "training.save_best_only": True},
        {"training.checkpointing": {"save_frequency": 2, "save_best_only": True, "save_optimizer": True}},
    ),
    "folders that share a parent": (
        {"training.checkpoint_dir": "r/a/c", "output.log_dir": "r/a/l", "generation.output_dir": "r/a/g"},
        {
            "output": {
                "base_dir": "r/a",
                "subdirs": {"logs": "l", "checkpoints": "c", "samples": "samples", "generated": "g"},
            }
        },
    ),
    "folders: one alone": (
        {"generation.output_dir": "r/g"},
        {"output.base_dir": "r", "output.subdirs.generated": "g", "output.subdirs.logs": "logs"},
    ),
    "folders: null is the default": (
        {"generation.output_dir": None},
        {"output.base_dir": "outputs", "output.subdirs.generated": "generated"},
    ),
    "training.validation": (
        {"training.validation": {"enabled": False, "frequency": 3, "metric": "loss"}, "device": "cpu"},
        {"training.validation": {"enabled": False, "frequency": 3, "metric": "loss"}, "compute.device": "cpu"},
    ),
    "validation": (
        {"validation": {"enabled": False, "frequency": 3, "metric": "loss"}},
        {"training.validation": {"enabled": False, "frequency": 3, "metric": "loss"}},
    ),
    "validation, set twice to the same value": (
        {"validation": {"frequency": 3}, "training.validation": {"frequency": 3, "enabled": True}},
        {"training.validation": {"enabled": True, "frequency": 3, "metric": "loss"}},
    ),
    "training.visualization": (
        {
            "model.num_classes": 10,
            "training.visualization": {
                "sample_images": False,
                "sample_interval": 7,
                "samples_per_class": 4,
                "guidance_scale": 1.5,
            },
        },
        {
            "training.visualization": {"enabled": False, "interval": 7, "num_samples": 40, "guidance_scale": 1.5},
            "model.conditioning": {"type": "class", "num_classes": 10, "class_dropout_prob": 0.1},
        },
    ),
    "visualization under generation": (
        {
            "generation.sample_images": False,
            "generation.sample_interval": 7,
            "generation.samples_per_class": 4,
            "generation.guidance_scale": 1.5,
        },
        {
            "training.visualization": {"enabled": False, "interval": 7, "num_samples": 4, "guidance_scale": 1.5},
            "generation.sampling.guidance_scale": 1.5,
        },
    ),
    "visualization has a guidance scale of its own": (
        {
            "generation.sample_interval": 7,
            "generation.guidance_scale": 1.5,
            "training.visualization": {"guidance_scale": 2.5},
        },
        {
            "training.visualization.guidance_scale": 2.5,
            "training.visualization.interval": 7,
            "generation.sampling.guidance_scale": 1.5,
        },
    ),
    "visualization: number of pictures is V2's where V1 does not count": (
        {"model.num_classes": 10},
        {
            "training.visualization.num_samples": 8,
            "model.conditioning": {"type": "class", "num_classes": 10, "class_dropout_prob": 0.1},
        },
    ),
    "training.use_amp": ({"training.use_amp": True}, {"training.performance.use_amp": True}),
    "generation": (
        {
            "generation": {
                "checkpoint": "c.pt",
                "num_samples": 6,
                "guidance_scale": 0.0,
                "use_ema": False,
                "save_grid": False,
                "grid_nrow": 2,
            }
        },
        {
            "generation": {
                "checkpoint": "c.pt",
                "sampling": {"num_samples": 6, "guidance_scale": 0.0, "use_ema": False},
                "output": {"save_individual": True, "save_grid": False, "grid_nrow": 2},
            },
            "training.visualization.guidance_scale": 3.0,
        },
    ),
    "experiment, mode": (
        {"experiment": "mine", "mode": "generate", "seed": 1},
        {"experiment": "mine", "mode": "generate", "compute.seed": 1},
    ),
}


def tree_of(values: dict[str, Any]) -> dict[str, Any]:
    """Return a nested tree from values by dotted key; later ones go into the sections of earlier ones."""
    tree: dict[str, Any] = {}
    for key, value in values.items():
        *sections, name = str(key).split(".")
        place = tree
        for section in sections:
            place = place.setdefault(section, {})
        place[name] = {**place.get(name, {}), **value} if isinstance(value, dict) else value
    return tree


def quietly(v1: dict[str, Any]) -> dict[str, Any]:
    """Migrate with no warning except for the deprecation of V1."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.warns(ConfigDeprecationWarning) as caught:
            v2 = migrate_config_v1_to_v2(v1)
    assert [str(warning.message) for warning in caught] == [v1_deprecation()]
    return v2


def warned(v1: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Migrate with exactly one warning besides the deprecation, and return its message."""
    with pytest.warns(ConfigWarning) as caught:
        v2 = migrate_config_v1_to_v2(v1)
    (warning,) = (each for each in caught if each.category is ConfigWarning)
    assert {each.filename for each in caught} == {__file__}  # the caller's line is shown, not one of the library
    assert len(caught) == 1 + is_v1(v1)
    return v2, str(warning.message)


def refused(v1: dict[str, Any]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        migrate_config_v1_to_v2(v1)
    return str(caught.value).splitlines()[1:]


def fixture(name: str) -> dict[str, Any]:
    return read_yaml(FIXTURES / f"{name}.yaml")


@pytest.mark.parametrize("module", [migration, v1_folders], ids=lambda module: module.__name__)
def test_examples_in_docstrings(module: ModuleType) -> None:
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize(("v1", "kept"), ROWS.values(), ids=ROWS)
def test_row(v1: dict[str, Any], kept: dict[str, Any]) -> None:
    expected = get_default_config()
    for key, value in kept.items():
        put(expected, key, value)
    assert quietly(tree_of(v1)) == expected


def test_rows_cover_every_key_of_v1() -> None:
    keys = {key for values, _ in ROWS.values() for key in leaves(tree_of(values))}
    assert keys - {"training.optimizer_kwargs"} == set(v1_format.V1_KEYS)


def test_full_file_loses_nothing() -> None:
    default, found = leaves(get_default_config()), leaves(quietly(fixture("v1_full")))
    assert {key for key, value in found.items() if value == default.get(key)} == {
        "mode",
        "training.validation.enabled",
        "training.validation.metric",
        # not in V1:
        "output.subdirs.samples",
        "training.checkpointing.save_optimizer",
        "training.performance.use_tf32",
        "training.performance.cudnn_benchmark",
        "training.performance.compile_model",
        "training.resume.enabled",
        "training.resume.checkpoint",
        "training.resume.reset_optimizer",
        "training.resume.reset_scheduler",
        "generation.output.save_individual",
    }


def test_fixtures_have_every_key_of_v1() -> None:
    keys = {key for name in V1_FILES for key in leaves(fixture(name))}
    other_schedulers = {f"training.scheduler_kwargs.{name}" for name in ("step_size", "gamma", "last_epoch", *PLATEAU)}
    other_options = {f"training.optimizer_kwargs.{name}" for name in ("lr", "amsgrad", "fused", *FURTHER)}
    assert keys == set(v1_format.V1_KEYS) - other_schedulers - other_options


@pytest.mark.parametrize("name", V1_FILES)
def test_fixture_migrates_to_a_valid_tree(name: str, tmp_path: Path) -> None:
    v1 = fixture(name)
    before = copy.deepcopy(v1)
    v2 = quietly(v1)
    assert v1 == before
    put(v2, "data.paths.train", str(tmp_path))
    put(v2, "data.paths.val", None)
    validate_config(v2)


def test_sections_keep_their_order() -> None:
    v1 = {"training": {"epochs": 1}, "model": {"image_size": 8}, "seed": 1, "mode": "train", "device": "cpu"}
    assert list(quietly(v1)) == ["experiment", "training", "generation", "model", "data", "output", "compute", "mode"]
    assert list(quietly({"device": "cpu"})) == list(get_default_config())
    assert list(quietly({"validation": {"metric": "loss"}, "device": "cpu"}))[:2] == ["experiment", "mode"]


def test_nothing_of_the_old_tree_is_shared() -> None:
    v1 = fixture("v1_full")
    quietly(v1)["model"]["architecture"]["channel_multipliers"].append(8)
    assert v1 == fixture("v1_full")


@pytest.mark.parametrize(
    ("v1", "line"),
    [
        (
            {"training.learnin_rate": 1},
            "training.learnin_rate = 1: not a V1 key, left out (did you mean 'training.learning_rate'?)",
        ),
        ({"learning_rate": 1}, "learning_rate = 1: not a V1 key, left out (did you mean 'training.learning_rate'?)"),
        ({"wandb": {"project": "x", "tags": []}}, 'wandb = {"project": "x", "tags": []}: not a V1 key, left out'),
        ({"data.type": "digits"}, 'data.type = "digits": not a V1 key, left out'),
        (
            {"training.optimizer_kwargs.momentum": 0.9},
            "training.optimizer_kwargs.momentum = 0.9: not a V1 key, left out",
        ),
        (
            {"training.scheduler": "step", "training.scheduler_kwargs.T_max": 5},
            "training.scheduler_kwargs.T_max = 5: not used with scheduler step, left out",
        ),
        (
            {"training.scheduler": "None", "training.scheduler_kwargs.gamma": 0.5},
            "training.scheduler_kwargs.gamma = 0.5: not used with scheduler none, left out",
        ),
    ],
)
def test_a_key_without_a_counterpart_is_reported(v1: dict[str, Any], line: str) -> None:
    v2, text = warned(tree_of({"device": "cpu", **v1}))
    assert text.splitlines() == ["not all of V1 is in V2:", f"  {line}"]
    assert v2["training"]["scheduler"]["type"] == ("step" if "step" in v1.values() else None)
    assert leaves(v2).keys() <= leaves(get_default_config()).keys()


def test_all_dropped_keys_are_in_one_warning() -> None:
    v1 = tree_of(
        {"device": "cpu", "a": 1, "training.b": 2, 3: 4, "output.log_dir": "/logs/a"}
        | {"training.checkpoint_dir": "runs/c", "training.scheduler_kwargs.gamma": 1}
    )
    _, text = warned(v1)
    assert [line.split(" = ")[0].strip() for line in text.splitlines()[1:]] == [
        "a",
        "training.b",
        "3",
        "training.scheduler_kwargs.gamma",
        "output.log_dir",
    ]


@pytest.mark.parametrize(
    ("checkpoints", "logs", "generated", "base", "moved"),
    [
        ("outputs/checkpoints", "outputs/logs", "outputs/generated", "outputs", {}),
        ("checkpoints", "logs", "made", ".", {}),
        ("/runs/c", "/runs/l", "/runs/g", "/runs", {}),
        ("runs/a/ckpt/", "./runs/a/logs", "runs/a//made", "runs/a", {}),
        ("runs/a/ckpt", "runs/logs/a", "runs/made", "runs", {}),  # a parent some levels up
        ("runs/all", "runs/all", "runs/all", "runs", {}),
        ("runs/a", "runs/a/logs", "runs/a/made", "runs", {}),
        ("../c", "../l", "../g", "..", {}),
        ("runs/c", "/logs", "runs/g", "runs", {"logs": "runs/logs"}),
        ("/scratch/c", "/var/l", "/home/g", "/scratch", {"logs": "/scratch/logs", "generated": "/scratch/generated"}),
        ("a/c", "b/l", "a/g", "a", {"logs": "a/logs"}),
        ("a/c", "b", "a", "a", {"logs": "a/logs", "generated": "a/generated"}),
        ("c", "../l", "a/g", ".", {"logs": "logs"}),
        (".", "a/l", "a/g", "a", {"checkpoints": "a/checkpoints"}),
        (".", "..", "/", "outputs", {name: f"outputs/{name}" for name in ("checkpoints", "logs", "generated")}),
        ("../../c", "../l", "../g", "../..", {"logs": "../../logs", "generated": "../../generated"}),
    ],
)
def test_folders(checkpoints: str, logs: str, generated: str, base: str, moved: dict[str, str]) -> None:
    v1 = {"training.checkpoint_dir": checkpoints, "output.log_dir": logs, "generation.output_dir": generated}
    with recorded_warnings() as caught:
        v2 = migrate_config_v1_to_v2(tree_of(v1))
    assert v2["output"]["base_dir"] == base
    assert len(caught) == 1 + bool(moved)
    for (key, old), name in zip(v1.items(), ("checkpoints", "logs", "generated"), strict=True):
        new = moved.get(name, old)
        assert os.path.normpath(resolve_output_path(v2, name)) == os.path.normpath(new)
        if name in moved:
            assert f'{key} = "{old}": V2 has one base folder, {base}; its new path is {new}' in str(caught[1].message)
    put(v2, "data.paths.train", ".")
    validate_config(v2)


@pytest.mark.parametrize(
    ("v1", "lines"),
    [
        (
            {"data.image_size": 64, "model.image_size": 32},
            ["data.image_size = 64: must be 32 because of model.image_size, or be left out: V2 derives it"],
        ),
        (
            {"data.image_size": 6},
            ["data.image_size = 6: must be 40 because of model.image_size, or be left out: V2 derives it"],
        ),
        (
            {"data.return_labels": True},
            [
                "data.return_labels = true: must be false because of model.num_classes being null, or be left out: "
                "V2 derives it"
            ],
        ),
        (
            {"data.return_labels": False, "model.num_classes": 3},
            [
                "data.return_labels = false: must be true because of model.num_classes being set, or be left out: "
                "V2 derives it"
            ],
        ),
        (
            {"validation.metric": "loss", "training.validation.metric": "fid"},
            ['validation.metric = "loss": contradicts training.validation.metric = "fid", the same setting: keep one'],
        ),
        (
            {"generation.samples_per_class": 2, "training.visualization.samples_per_class": 3},
            [
                "generation.samples_per_class = 2: contradicts training.visualization.samples_per_class = 3, "
                "the same setting: keep one"
            ],
        ),
        (
            {"training.optimizer_kwargs.lr": 2, "training.learning_rate": 3},
            ["training.optimizer_kwargs.lr = 2: contradicts training.learning_rate = 3, the same setting: keep one"],
        ),
        (
            {"training.checkpoint_dir": 3, "output.log_dir": " "},
            ["training.checkpoint_dir = 3: must be a path", 'output.log_dir = " ": must be a path'],
        ),
        ({"model": [1], "device": "cpu"}, ["model = [1]: must be a section of keys"]),
        ({"training.optimizer_kwargs": "lr=1"}, ['training.optimizer_kwargs = "lr=1": must be a section of keys']),
    ],
)
def test_contradiction_is_a_fault(v1: dict[str, Any], lines: list[str]) -> None:
    assert refused(tree_of(v1)) == [f"  {line}" for line in lines]


def test_all_faults_at_once() -> None:
    v1 = {"data.image_size": 1, "data.return_labels": True, "output.log_dir": 1, "generation": 3}
    assert [line.split(" = ")[0].strip() for line in refused(tree_of(v1))] == [
        "generation",
        "data.image_size",
        "data.return_labels",
        "output.log_dir",
    ]


@pytest.mark.parametrize(
    ("v1", "fault"),
    [
        ({"training.learning_rate": "fast"}, 'training.optimizer.learning_rate = "fast": must be a number'),
        ({"training.optimizer": "adamm"}, 'training.optimizer.type = "adamm": must be one of'),
        ({"training.scheduler": ["cosine"]}, "training.scheduler.type"),
        ({"training.scheduler": "cosin"}, "(did you mean 'cosine'?)"),
        ({"generation.samples_per_class": "two"}, 'training.visualization.num_samples = "two": must be an integer'),
        ({"generation.samples_per_class": 0}, "training.visualization.num_samples = 0: must be at least 1"),
        ({"model.num_classes": 0}, "model.conditioning.num_classes = 0: must be at least 1"),
        ({"data.color_jitter": {"enabled": True}}, "data.augmentation.color_jitter.enabled"),
    ],
)
def test_invalid_values_stay_invalid_in_v2(v1: dict[str, Any], fault: str) -> None:
    v2 = quietly(tree_of(v1))
    put(v2, "data.paths.train", ".")
    with pytest.raises(ConfigError) as caught:
        validate_config(v2)
    (line,) = str(caught.value).splitlines()[1:]
    assert fault in line


def test_v2_is_returned_as_an_unchanged_copy_with_a_warning() -> None:
    tree = {**get_default_config(), "sampler": {"type": "ddpm"}, "typo": 1}
    before = copy.deepcopy(tree)
    same, text = warned(tree)
    assert same == tree == before
    assert text == "the configuration is already V2: nothing to migrate"
    same["model"]["architecture"]["channel_multipliers"].append(8)
    assert tree == before


@pytest.mark.parametrize("tree", [None, [], "device: cpu", 3])
def test_a_tree_must_be_a_mapping(tree: object) -> None:
    with pytest.raises(TypeError, match=f"must be a mapping of keys to values, got {type(tree).__name__}"):
        migrate_config_v1_to_v2(tree)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "tree", [{}, {"mode": "train"}, {"training": {"epochs": 3}}, {"model": {}}, {"name": {"x": 1}}]
)
def test_neither_v1_nor_v2(tree: dict[str, Any]) -> None:
    assert not is_v1(tree)
    assert not is_v2(tree)
    (line,) = refused(tree)
    assert "is neither V1 (no key like device or model.image_size) nor V2 (no section like compute" in line


@pytest.mark.parametrize("key", ["compute", "data.paths", "output.base_dir", "training.resume", "sampler"])
def test_mixture_is_refused(key: str) -> None:
    tree = tree_of({"model.image_size": 8, key: {}})
    assert not is_v1(tree)
    assert not is_v2(tree)
    (line,) = refused(tree)
    assert line.startswith(f"  {key}: is of V2, but model.image_size is of V1: keep to one format")
    assert (key != "data.paths") or line.endswith("; V1 has data.train_path, data.val_path")


@pytest.mark.parametrize("name", ["optimizer", "scheduler"])
def test_one_name_is_a_string_in_v1_and_a_section_in_v2(name: str) -> None:
    assert is_v1({"training": {name: "adam"}})
    assert is_v1({"training": {name: None}})
    assert is_v2({"training": {name: {"type": "adam"}}})


def test_a_broken_reference_does_not_hide_the_format() -> None:
    assert is_v1(OmegaConf.create({"device": "${no.where}", "data": {"train_path": "${no.where}"}}))
    assert is_v2(OmegaConf.create({"compute": "${no.where}", "model": {"architecture": {"image_size": "${no.where}"}}}))


@pytest.mark.parametrize("name", V1_FILES)
def test_v1_file_is_known_by_its_keys(name: str) -> None:
    tree = fixture(name)
    assert is_v1(tree)
    assert not is_v2(tree)
    v2 = migrate_config_v1_to_v2(tree)
    assert is_v2(v2)
    assert not is_v1(v2)


def test_every_key_that_only_v1_has_identifies_v1() -> None:
    shared = {"experiment", "mode", "training.epochs", "training.visualization.guidance_scale", "generation.checkpoint"}
    shared |= {f"training.validation.{name}" for name in ("enabled", "frequency", "metric")}
    shared |= {"training.ema.enabled", "training.ema.decay"}
    assert {key for key in v1_format.V1_KEYS if not is_v1(tree_of({key: 1}))} == shared


def test_deprecation_names_guide_and_script() -> None:
    root = Path(__file__).parents[2]
    for file in ("docs/migration-v1-to-v2.md", "scripts/migrate_config_v1_to_v2.py"):
        assert file in v1_deprecation()
        assert (root / file).is_file()
    for page in ("docs/migration-v1-to-v2.md", "CHANGELOG.md"):
        words = " ".join((root / page).read_text().split())
        assert f"will be removed in version {V1_IS_REMOVED_IN}" in words


def test_v1_is_removed_in_a_future_version() -> None:
    """When this fails, V1 must be removed."""
    released, removed = ([int(part) for part in text.split(".")[:2]] for text in (__version__, V1_IS_REMOVED_IN))
    assert released < removed
