"""Any V1 file becomes a valid V2 tree that contains all of its values."""

from __future__ import annotations

import copy
import os
import warnings
from typing import Any

import pytest
import yaml
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from diffusion_lab.cli.yaml_file import yaml_text
from diffusion_lab.config import (
    ConfigDeprecationWarning,
    ConfigWarning,
    is_v1,
    migrate_config_v1_to_v2,
    resolve_output_path,
    validate_config,
)
from diffusion_lab.config.optimizer_section import OptimizerSettings
from diffusion_lab.config.scheduler_section import SchedulerSettings
from diffusion_lab.typed_settings.settings_reader import leaves
from diffusion_lab.v1.format import V1_KEYS
from tests.recorded_warnings import recorded_warnings

SELDOM_OF_ADAM = {"lr", *OptimizerSettings.all_options()} - {"eps"}
SELDOM_OF_PLATEAU = [*SchedulerSettings.options_of("plateau")][3:]

Tree = dict[str, Any]

counts = st.integers(1, 10_000)
shares = st.floats(0, 1)
positive = st.floats(1e-8, 1e3)
names = st.text("abcdefghijklmnopqrstuvwxyz_0123456789", min_size=1, max_size=6)
folders = st.builds(
    "{}{}".format,
    st.sampled_from(["", "", "/", "../"]),
    st.lists(st.sampled_from("abc") | names, min_size=1, max_size=3).map("/".join),
)

SCHEDULES: dict[str | None, dict[str, st.SearchStrategy[Any]]] = {
    None: {"T_max": counts | st.just("auto"), "eta_min": st.floats(0, 1)},
    "none": {"T_max": counts | st.just("auto"), "eta_min": st.floats(0, 1)},
    "cosine": {"T_max": counts | st.just("auto"), "eta_min": st.floats(0, 1)},
    "step": {"step_size": counts, "gamma": positive},
    "plateau": {
        "mode": st.sampled_from(["min", "max"]),
        "factor": st.floats(0.01, 0.99),
        "patience": st.integers(0, 99),
    },
}

VALIDATION = {"enabled": st.just(True), "frequency": counts, "metric": st.just("loss")}
PICTURES = {"sample_images": st.booleans(), "sample_interval": counts, "samples_per_class": counts}
GUIDANCE = st.floats(0, 20)

# Where the specification puts a V1 value that stays as it is.
PLACES = {
    "experiment": "experiment",
    "mode": "mode",
    "device": "compute.device",
    "seed": "compute.seed",
    "data.train_path": "data.paths.train",
    "data.val_path": "data.paths.val",
    "data.color_jitter": "data.augmentation.color_jitter.enabled",
    "data.color_jitter_strength": "data.augmentation.color_jitter.strength",
    "data.image_size": "model.architecture.image_size",
    "training.epochs": "training.epochs",
    "training.optimizer": "training.optimizer.type",
    "training.learning_rate": "training.optimizer.learning_rate",
    "training.gradient_clip_norm": "training.optimizer.gradient_clip_norm",
    "training.use_ema": "training.ema.enabled",
    "training.ema_decay": "training.ema.decay",
    "training.ema.enabled": "training.ema.enabled",
    "training.ema.decay": "training.ema.decay",
    "training.save_frequency": "training.checkpointing.save_frequency",
    "training.save_best_only": "training.checkpointing.save_best_only",
    "training.use_amp": "training.performance.use_amp",
    "training.visualization.sample_images": "training.visualization.enabled",
    "training.visualization.sample_interval": "training.visualization.interval",
    "training.visualization.guidance_scale": "training.visualization.guidance_scale",
    "generation.sample_images": "training.visualization.enabled",
    "generation.sample_interval": "training.visualization.interval",
    "generation.checkpoint": "generation.checkpoint",
    "generation.num_samples": "generation.sampling.num_samples",
    "generation.guidance_scale": "generation.sampling.guidance_scale",
    "generation.use_ema": "generation.sampling.use_ema",
    "generation.save_grid": "generation.output.save_grid",
    "generation.grid_nrow": "generation.output.grid_nrow",
}
SECTIONS = {
    "model.architecture": "image_size in_channels model_channels channel_multipliers use_attention",
    "model.diffusion": "num_timesteps beta_schedule beta_start beta_end",
    "model.conditioning": "num_classes class_dropout_prob",
    "data.loading": "batch_size num_workers pin_memory shuffle_train drop_last",
    "data.augmentation": "horizontal_flip rotation_degrees",
}
PLACES |= {f"{place.split('.')[0]}.{name}": f"{place}.{name}" for place, ns in SECTIONS.items() for name in ns.split()}
PREFIXES = {
    "training.optimizer_kwargs.": "training.optimizer.",
    "training.scheduler_kwargs.": "training.scheduler.",
    "training.validation.": "training.validation.",
    "validation.": "training.validation.",
}
FOLDERS = {"training.checkpoint_dir": "checkpoints", "output.log_dir": "logs", "generation.output_dir": "generated"}
COUNTED = ("training.visualization.samples_per_class", "generation.samples_per_class")


def some(**optional: st.SearchStrategy[Any]) -> st.SearchStrategy[Tree]:
    """Draw a section with any of its keys."""
    return st.fixed_dictionaries({}, optional=optional)


@st.composite
def models(draw: st.DrawFn) -> Tree:
    stages = draw(st.integers(1, 4))
    start, end = sorted(draw(st.lists(st.floats(1e-5, 0.9), min_size=2, max_size=2, unique=True)))
    flags = st.lists(st.booleans(), min_size=stages, max_size=stages)
    shape = {
        "image_size": draw(st.integers(1, 32)) * 2 ** (stages - 1),
        "channel_multipliers": draw(st.lists(st.integers(1, 8), min_size=stages, max_size=stages)),
        "use_attention": draw(flags),
    }
    others = some(
        in_channels=st.sampled_from([1, 3, 4]),
        model_channels=st.integers(1, 32) | st.integers(5, 32).map(lambda groups: 8 * groups),
        num_timesteps=st.integers(1, 2000),
        beta_schedule=st.sampled_from(["linear", "cosine", "quadratic", "sigmoid"]),
        num_classes=st.none() | st.integers(1, 1000),
        class_dropout_prob=shares,
    )
    betas = draw(st.sampled_from([{}, {"beta_start": start, "beta_end": end}]))
    return (shape if draw(st.booleans()) else {}) | betas | draw(others)


@st.composite
def trainings(draw: st.DrawFn) -> Tree:
    schedules = [
        st.fixed_dictionaries({"scheduler": st.just(kind), "scheduler_kwargs": some(**options)})
        for kind, options in SCHEDULES.items()
    ]
    schedule = draw(st.one_of(st.just({}), *schedules))
    others = some(
        epochs=counts,
        optimizer=st.sampled_from(["adam", "adamw"]),
        learning_rate=positive,
        optimizer_kwargs=st.none()
        | some(weight_decay=shares, betas=st.lists(st.floats(0, 0.999), min_size=2, max_size=2), eps=positive),
        gradient_clip_norm=st.none() | positive,
        use_amp=st.booleans(),
        checkpoint_dir=folders,
        save_frequency=counts,
        save_best_only=st.booleans(),
        visualization=some(**PICTURES, guidance_scale=GUIDANCE),
    )
    switch, decay = st.booleans(), st.floats(0, 0.9999)
    section = st.fixed_dictionaries({"enabled": switch, "decay": decay})
    averages = some(use_ema=switch, ema_decay=decay) | st.fixed_dictionaries({"ema": section})
    return schedule | draw(others) | draw(averages)


@st.composite
def v1_trees(draw: st.DrawFn) -> Tree:
    """Draw a V1 file with any of its keys and valid values, in any order of its sections."""
    data = some(
        train_path=st.just("."),
        val_path=st.none() | st.just("."),
        batch_size=counts,
        num_workers=st.integers(0, 64),
        pin_memory=st.booleans(),
        shuffle_train=st.booleans(),
        drop_last=st.booleans(),
        horizontal_flip=st.booleans(),
        rotation_degrees=st.integers(0, 180) | st.floats(0, 180),
        color_jitter=st.booleans(),
        color_jitter_strength=shares,
    )
    generation = some(
        checkpoint=st.just("."),
        num_samples=counts,
        guidance_scale=GUIDANCE,
        use_ema=st.booleans(),
        output_dir=st.none() | folders,
        save_grid=st.booleans(),
        grid_nrow=counts,
    )
    tree = {
        "device": draw(st.sampled_from(["auto", "cpu", "cuda", "cuda:1", "mps"])),
        "model": draw(models()),
        "data": draw(data) | {"train_path": "."},
        "training": draw(trainings()),
        "generation": draw(generation),
        **draw(some(experiment=names, seed=st.none() | st.integers(0, 2**40), output=some(log_dir=folders))),
    }
    if "checkpoint" in tree["generation"] and draw(st.booleans()):
        tree["mode"] = draw(st.sampled_from(["train", "generate"]))
    if draw(st.booleans()):
        tree["data"]["return_labels"] = tree["model"].get("num_classes") is not None
    if "image_size" in tree["model"] and draw(st.booleans()):
        tree["data"]["image_size"] = tree["model"]["image_size"]
    validation = draw(some(**VALIDATION))
    tree |= draw(st.sampled_from([{}, {"validation": validation}]))
    if draw(st.booleans()):
        tree["training"]["validation"] = copy.deepcopy(validation)
    if "visualization" not in tree["training"]:
        tree["generation"] |= draw(some(**PICTURES))
    order = draw(st.permutations(list(tree)))
    return {name: tree[name] for name in order}


def migrated(v1: Tree) -> tuple[Tree, str]:
    with recorded_warnings() as caught:
        v2 = migrate_config_v1_to_v2(v1)
    others = [warning for warning in caught if warning.category is not ConfigDeprecationWarning]
    assert len(caught) - len(others) == is_v1(v1)
    assert len(others) <= 1
    assert all(warning.category is ConfigWarning for warning in others)
    return v2, "".join(str(warning.message) for warning in others)


@given(v1_trees())
def test_the_result_is_valid_and_can_be_written_and_read(v1: Tree) -> None:
    v2, _ = migrated(v1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConfigWarning)
        validate_config(v2)
    assert yaml.safe_load(yaml_text(v2)) == v2


@given(v1_trees())
def test_no_value_is_lost(v1: Tree) -> None:
    before = copy.deepcopy(v1)
    v2, warned = migrated(v1)
    assert v1 == before
    kept = leaves(v2)
    classes = kept["model.conditioning.num_classes"]
    for key, value in leaves(v1).items():
        if key in FOLDERS:
            place = resolve_output_path(v2, FOLDERS[key])
            assert value is None or os.path.normpath(place) == value or f'{key} = "{value}"' in warned
        elif key in COUNTED:
            assert kept["training.visualization.num_samples"] == value * (classes or 1)
        elif key == "data.return_labels":
            assert (kept["model.conditioning.type"] == "class") is value
        elif key == "training.scheduler":
            assert kept["training.scheduler.type"] == (None if value == "none" else value)
        elif value not in (None, {}) or key in PLACES:
            assert kept[place_of(key)] == value, key


def place_of(key: str) -> str:
    if key in PLACES:
        return PLACES[key]
    prefix = next(prefix for prefix in PREFIXES if key.startswith(prefix))
    return PREFIXES[prefix] + key.removeprefix(prefix)


@given(v1_trees(), st.sampled_from(["", "model.", "data.", "training.", "generation."]), names.map("new_{}".format))
def test_a_key_unknown_to_v1_is_reported(v1: Tree, section: str, name: str) -> None:
    expected, earlier_warnings = migrated(v1)
    (v1[section.rstrip(".")] if section else v1)[name] = [1, {"a": None}]
    v2, warned = migrated(v1)
    assert f'{section}{name} = [1, {{"a": null}}]: not a V1 key, left out' in warned
    assert v2 == expected
    assert all(line in warned for line in earlier_warnings.splitlines())


@settings(max_examples=30)
@given(v1_trees())
def test_v2_is_unchanged(v1: Tree) -> None:
    v2, _ = migrated(v1)
    again, warned = migrated(v2)
    assert again == v2
    assert "already V2" in warned


class EveryKeySeen(Exception):
    """Ends the search for examples once everything has been found."""


def test_the_generator_reaches_every_key() -> None:
    """Properties only test the keys that are drawn."""
    not_drawn = {
        f"training.optimizer_kwargs.{name}" for name in ("lr", *OptimizerSettings.all_options()) if name != "eps"
    }
    not_drawn |= {
        f"training.scheduler_kwargs.{name}" for name in ("last_epoch", *[*SchedulerSettings.options_of("plateau")][3:])
    }
    unseen = set(V1_KEYS) - not_drawn

    @settings(max_examples=500, derandomize=True, database=None, phases=[Phase.generate])
    @given(v1_trees())
    def collect(v1: Tree) -> None:
        unseen.difference_update(leaves(v1))
        if not unseen:
            raise EveryKeySeen

    with pytest.raises(EveryKeySeen):
        collect()
