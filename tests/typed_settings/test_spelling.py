"""Names in any case and ``none`` for null: every choice of the schema, and keys that accept any string."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from diffusion_lab.config import ConfigError, GenerateConfig, TrainConfig, parse_config, validate_config
from diffusion_lab.config.schema import CHOICES
from diffusion_lab.typed_settings.settings_reader import section_of
from diffusion_lab.typed_settings.spelling import Spelling, spelled, spelling_of
from tests.config.conftest import Change

TEXTS = {
    "experiment",
    "name",
    "output.base_dir",
    *(f"output.subdirs.{name}" for name in ("logs", "checkpoints", "samples", "generated")),
    "generation.checkpoint",
    "generation.trust",
    "data.paths.train",
    "data.paths.val",
    "data.background",  # Pillow reads colours in any case
    "data.cache_dir",
    "logger.notes",
    "training.max_time",
    "training.validation.metric",
    "training.resume.checkpoint",
    "evaluation.weights",
    "evaluation.sha256",
    "evaluation.cache_dir",
    *(f"logger.{name}" for name in ("project", "entity", "group", "name", "dir")),
}
"""Keys whose values are left unchanged."""


def fields(schema: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Spelling]]:
    for name in schema.model_fields:
        section = section_of(schema, name)
        if section is not None:
            yield from fields(section, f"{prefix}{name}.")
        else:
            yield prefix + name, spelling_of(schema, name)


FIELDS = dict(fields(TrainConfig))
CHOSEN = [(key, name) for key, spelling in FIELDS.items() for name in spelling.names.values()]


@pytest.mark.parametrize(("key", "name"), CHOSEN)
def test_each_name_is_read_in_any_case(key: str, name: str) -> None:
    for given in (name.upper(), name.title(), name):
        assert spelled(TrainConfig, key, given) == name


def test_every_string_field_is_a_choice_or_listed_here() -> None:
    """Each new key must be classified: a choice by name, or a string left unchanged."""
    chosen = {key for key, spelling in FIELDS.items() if spelling.names or spelling.is_lower or spelling.entries}
    assert not chosen & TEXTS
    for key in TEXTS:
        assert spelled(TrainConfig, key, "None") == "None"
    takes_text = {key for key in FIELDS if key not in chosen and _takes_text(key)}
    assert takes_text == TEXTS


def _takes_text(key: str) -> bool:
    *sections, name = key.split(".")
    schema: Any = TrainConfig
    for part in sections:
        schema = section_of(schema, part)
    return _has_text(schema.model_fields[name].annotation)


def _has_text(annotation: Any) -> bool:
    return getattr(annotation, "__name__", "") in ("str", "Path") or any(map(_has_text, get_args(annotation)))


@pytest.mark.parametrize("key", [key for key, spelling in FIELDS.items() if spelling.may_be_null])
def test_none_is_null_where_null_is_allowed(key: str) -> None:
    for given in ("none", "None", "NONE"):
        assert spelled(TrainConfig, key, given) is None


def test_none_is_a_choice_of_the_cache() -> None:
    assert spelled(TrainConfig, "data.cache", "None") == "none"


def test_none_is_refused_where_null_is_refused(changed: Change) -> None:
    with pytest.raises(ConfigError, match=r'training\.optimizer\.type = "none": must be one of'):
        validate_config(changed({"training.optimizer.type": "none"}))


def test_devices_and_lists_of_names() -> None:
    assert spelled(TrainConfig, "compute.device", "CUDA:1") == "cuda:1"
    assert spelled(GenerateConfig, "logger.backends", ["WandB", "TensorBoard"]) == ["wandb", "tensorboard"]


@pytest.mark.parametrize("choice", CHOICES)
def test_options_by_name(choice: Any) -> None:
    """Yield the options of every named class."""
    assert choice.all_options() or choice.KEY == "data"


def test_options_of_a_sampler(changed: Change) -> None:
    tree = changed({"sampler": {"type": "DDPM", "steps": 5, "variance": "LARGE", "spacing": "Leading"}})
    assert parse_config(tree).sampler.model_dump() == {
        "type": "ddpm",
        "steps": 5,
        "variance": "large",
        "spacing": "leading",
    }


def test_dotted_paths_keep_their_case(changed: Change) -> None:
    path = "tests.typed_settings.own_classes.Lion"
    config = parse_config(changed({"training.optimizer.type": path}))
    assert config.training is not None
    assert config.training.optimizer.type == path
    with pytest.raises(ConfigError, match=r"tests\.typed_settings\.own_classes\.lion"):
        validate_config(changed({"training.optimizer.type": path.lower()}))
