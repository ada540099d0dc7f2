"""Any valid tree is accepted and can be written and read; any single corruption of one is refused by name."""

from __future__ import annotations

import datetime
import warnings
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from diffusion_lab.config import (
    ConfigError,
    GenerateConfig,
    TrainConfig,
    get_default_config,
    parse_config,
    validate_config,
)
from diffusion_lab.config.schema import CHOICES
from diffusion_lab.typed_settings.settings_reader import known_keys, member_of, section_of
from tests.config.conftest import drop, put
from tests.config.test_schema import BAD
from tests.config.valid_trees import ANYTHING, FOLDER, Tree, trees
from tests.typed_settings.own_classes import HERE

SLOW = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
few = settings(max_examples=30, suppress_health_check=[*SLOW, HealthCheck.function_scoped_fixture])
KNOWN = set(known_keys(TrainConfig))
NO_VALUES: list[object] = [{"not": "a value"}, [[{}]], datetime.date(2024, 2, 29)]
"""Values from YAML that no key accepts."""


@pytest.fixture(autouse=True)
def no_warnings() -> Iterator[None]:
    """Ignore warnings, which random settings often cause."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def keys_present(tree: Tree, schema: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, bool, bool]]:
    """Yield the keys of a tree that its schema knows, with whether each is required and whether it is a section."""
    for name, field in (member_of(schema, tree) or schema).model_fields.items():
        if name in tree:
            section = section_of(schema, name)
            yield prefix + name, field.is_required(), section is not None
            if section is not None:
                yield from keys_present(tree[name], section, f"{prefix}{name}.")


def keys_of(tree: Tree) -> list[tuple[str, bool, bool]]:
    """Return the keys of ``keys_present`` for the mode of the tree."""
    return [*keys_present(tree, GenerateConfig if tree["mode"] == "generate" else TrainConfig)]


def at(tree: Tree, key: str) -> Any:
    value: Any = tree
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def has(tree: Tree, key: str) -> bool:
    section, _, name = key.rpartition(".")
    holder = at(tree, section) if section else tree
    return isinstance(holder, dict) and name in holder


def is_argument_of_a_custom_class(tree: Tree, key: str) -> bool:
    """Return whether a key is an argument of a class given by its dotted path, which sets its own bounds."""
    section, _, name = key.rpartition(".")
    choice = next((choice for choice in CHOICES if section == choice.KEY), None)
    return bool(choice and choice.path_of(at(tree, f"{section}.type")) and name not in choice.model_fields)


def assert_refused(tree: Tree, key: str, *starts: str) -> None:
    """Check that the message has a line for the key, or one with another given start."""
    with pytest.raises(ConfigError) as caught:
        validate_config(tree)
    lines = [line.strip() for line in str(caught.value).splitlines()[1:]]
    assert any(line.startswith((f"{key}:", f"{key} = ", f"{key}[", *starts)) for line in lines), str(caught.value)


@few
@given(trees())
def test_valid_tree_survives_being_written(tree: Tree) -> None:
    before = deepcopy(tree)
    config = parse_config(tree)
    assert tree == before
    assert parse_config(yaml.safe_load(yaml.safe_dump(tree))) == config
    written = config.model_dump(mode="json")
    assert parse_config(written) == config
    assert parse_config(yaml.safe_load(yaml.safe_dump(written, sort_keys=False))) == config


@few
@given(trees(), st.data())
def test_missing_key_is_named(tree: Tree, data: st.DataObject) -> None:
    required = ["output", "output.base_dir", "generation", "generation.checkpoint"]
    if tree["mode"] == "train":  # also without mode: a training run
        required = [key for key, is_required, _ in keys_of(tree) if is_required and key != "mode"]
    key = data.draw(st.sampled_from(required))
    drop(tree, key)
    assert_refused(tree, key)


@few
@given(trees(), st.data())
def test_mistyped_key_is_named(tree: Tree, data: st.DataObject) -> None:
    """Exclude classes that accept any key."""
    key = data.draw(st.sampled_from([key for key, _, _ in keys_of(tree)]))
    section, _, name = key.rpartition(".")
    assume(not section or at(tree, f"{section}.type") != ANYTHING)
    place = data.draw(st.integers(0, len(name) - 1))
    typos = [name[:place] + name[place + 1 :], name[:place] + "x" + name[place:], f"{name}s", name.upper()]
    mistyped = f"{section}.{data.draw(st.sampled_from(typos))}".lstrip(".")
    assume(mistyped not in KNOWN)
    put(tree, mistyped, at(tree, key))
    drop(tree, key)
    assert_refused(tree, mistyped, f"{mistyped}.")  # of a section, each key in it is named


@pytest.mark.parametrize("key", ["training.optimizer.type", "training.scheduler.type"])
def test_mistyped_type_is_named(key: str) -> None:
    tree = get_default_config()
    put(tree, f"{key[:-4]}ype", at(tree, key))
    drop(tree, key)
    assert_refused(tree, f"{key[:-4]}ype")


@pytest.mark.parametrize("section", ["training", "training.optimizer"])
def test_key_that_is_no_string_is_named(section: str) -> None:
    tree = get_default_config()
    at(tree, section).pop("type", None)
    at(tree, section)[1] = 2
    assert_refused(tree, f"{section}.1", f"{section}:")


@few
@given(trees(), st.data())
def test_value_of_another_type_is_named(tree: Tree, data: st.DataObject) -> None:
    key, _, is_section = data.draw(st.sampled_from(keys_of(tree)))
    put(tree, key, data.draw(st.sampled_from(NO_VALUES[is_section:])))
    assert_refused(tree, key)


@few
@given(trees(), st.data())
def test_value_out_of_bounds_is_named(tree: Tree, data: st.DataObject) -> None:
    here = [(key, value) for key, value in BAD if has(tree, key) and not is_argument_of_a_custom_class(tree, key)]
    key, value = data.draw(st.sampled_from(here))
    put(tree, key, value)
    assert_refused(tree, f"{key}.{next(iter(value))}" if isinstance(value, dict) else key)


def one_more_flag(tree: Tree) -> str:
    assume(tree["model"]["architecture"].get("type", "unet") == "unet")
    tree["model"]["architecture"]["use_attention"].append(True)
    return "model.architecture.use_attention"


def image_that_does_not_halve(tree: Tree) -> str:
    architecture = tree["model"]["architecture"]
    assume(architecture.get("type", "unet") in ("unet", "dit"))
    assume(architecture.get("patch_size", 1) * len(architecture.get("channel_multipliers", [1])) > 1)
    architecture["image_size"] += 1
    return "model.architecture.image_size"


def betas_that_do_not_rise(tree: Tree) -> str:
    diffusion = tree["model"]["diffusion"]
    diffusion["beta_start"], diffusion["beta_end"] = diffusion["beta_end"], diffusion["beta_start"]
    return "model.diffusion.beta_start"


def classes_without_a_number(tree: Tree) -> str:
    tree["model"]["conditioning"] |= {"type": "class", "num_classes": None}
    return "model.conditioning.num_classes"


def best_without_validation(tree: Tree) -> str:
    assume(tree["training"]["scheduler"]["type"] != "plateau")
    tree["training"]["checkpointing"]["save_best_only"] = True
    tree["training"]["validation"]["enabled"] = False
    return "training.checkpointing.save_best_only"


def plateau_without_validation(tree: Tree) -> str:
    tree["training"]["scheduler"] = {"type": "plateau"}
    tree["training"]["checkpointing"]["save_best_only"] = False
    tree["training"]["validation"]["enabled"] = False
    return "training.scheduler.type"


def metric_that_is_not_logged(tree: Tree) -> str:
    tree["training"]["validation"]["metric"] = "accuracy"
    return "training.validation.metric"


def option_of_another_schedule(tree: Tree) -> str:
    kind = tree["training"]["scheduler"]["type"]
    assume(kind != ANYTHING)
    option, value = ("patience", 1) if kind != "plateau" else ("warmup_steps", 1)
    tree["training"]["scheduler"][option] = value
    return f"training.scheduler.{option}"


def cosine_without_its_end(tree: Tree) -> str:
    assume(tree["mode"] == "train")  # generation does not read it
    tree["training"]["scheduler"] = {"type": "cosine", "T_max": "auto"}
    return "training.scheduler.eta_min"


def option_of_another_sampler(tree: Tree) -> str:
    tree["sampler"] = {"type": "ddim", "variance": "small"}
    return "sampler.variance"


def argument_that_the_class_lacks(tree: Tree) -> str:
    tree["sampler"] = {"type": f"{HERE}.PlainSampler", "eta": 0.5}
    return "sampler.eta"


def more_steps_than_there_are(tree: Tree) -> str:
    assume(tree["mode"] == "train")
    tree["sampler"] = {"type": "ddpm", "steps": tree["model"]["diffusion"]["num_timesteps"] + 1}
    return "sampler.steps"


def the_same_average_twice(tree: Tree) -> str:
    ema = tree["training"]["ema"]
    ema["further_decays"] = [ema["decay"]]
    return "training.ema.further_decays"


def decay_of_no_average(tree: Tree) -> str:
    tree["generation"]["sampling"] |= {"use_ema": False, "ema_decay": 0.5}
    return "generation.sampling.ema_decay"


def amp_in_full_precision(tree: Tree) -> str:
    tree["training"]["performance"] |= {"use_amp": True, "precision": 32}
    return "training.performance.precision"


def interval_that_falls(tree: Tree) -> str:
    tree["guidance"] = {"interval": [2, 1]}
    return "guidance.interval"


def images_for_data_that_brings_its_own(tree: Tree) -> str:
    assume(tree["mode"] == "train")
    tree["data"] |= {"type": "digits", "paths": {"train": None, "val": FOLDER}}
    return "data.paths.val"


def resuming_from_nothing(tree: Tree) -> str:
    assume(tree["mode"] == "train")
    tree["training"]["resume"] |= {"enabled": True, "checkpoint": "no/such/file"}
    return "training.resume.checkpoint"


def generating_from_nothing(tree: Tree) -> str:
    assume(tree["mode"] == "generate")
    tree["generation"]["checkpoint"] = None
    return "generation.checkpoint"


RULES: list[tuple[str, Callable[[Tree], str]]] = [
    ("model", one_more_flag),
    ("model", image_that_does_not_halve),
    ("model", betas_that_do_not_rise),
    ("model", classes_without_a_number),
    ("training", best_without_validation),
    ("training", plateau_without_validation),
    ("training", metric_that_is_not_logged),
    ("training", option_of_another_schedule),
    ("training", cosine_without_its_end),
    ("mode", option_of_another_sampler),
    ("mode", argument_that_the_class_lacks),
    ("mode", more_steps_than_there_are),
    ("training", the_same_average_twice),
    ("mode", decay_of_no_average),
    ("training", amp_in_full_precision),
    ("mode", interval_that_falls),
    ("data", images_for_data_that_brings_its_own),
    ("training", resuming_from_nothing),
    ("mode", generating_from_nothing),
]


@pytest.mark.parametrize(("section", "break_rule"), RULES, ids=lambda part: getattr(part, "__name__", ""))
@settings(few, max_examples=8)
@given(tree=trees())
def test_broken_rule_is_named(section: str, break_rule: Callable[[Tree], str], tree: Tree) -> None:
    assume(section in tree)
    assert_refused(tree, break_rule(tree))
