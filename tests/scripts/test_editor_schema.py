"""schema/ is current, accepts every valid file, and refuses one wrong key or value in any of them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator

from diffusion_lab.cli.compose import SHORT_NAMES
from diffusion_lab.config import get_default_config
from diffusion_lab.config.schema import CHOICES as SECTIONS
from scripts import make_schema
from scripts.editor_schema import HYDRA, package_of, package_schema, short_names
from scripts.json_schema import type_options
from tests.cli.test_compose import CHOICES
from tests.config.conftest import CONF, put
from tests.config.test_schema import BAD, ENTRIES, GOOD, leaves
from tests.typed_settings.test_spelling import CHOSEN

SCHEMA = CONF.parent / "schema"
FIXTURES = CONF.parent / "tests" / "fixtures" / "configs" / "diffusion"
MODELINE = "# yaml-language-server: $schema="
FILES = sorted(path for path in CONF.rglob("*.yaml") if path.name != "legacy.yaml")  # V1 has no schema

SHIPPED = [
    CONF / f"{name}.yaml"
    for name in ("train", "sample", "evaluate", "launch", "standalone/default", "standalone/generate")
]
SHIPPED += [CONF / group / f"{name}.yaml" for group, name in CHOICES]

BEYOND_JSON_SCHEMA: list[tuple[str, object]] = [
    ("model.architecture.image_size", 8.0),  # an integer to JSON
    ("model.architecture.model_channels", 1.0),
    ("model.diffusion.num_timesteps", 10.0),
    ("model.conditioning.num_classes", 2.0),
    ("data.paths.val", "no/such/folder"),
    ("data.background", "blackish"),
    ("data.background", "#xyz"),
    ("guidance", {"interval": [2, 2]}),  # the first below the second
    ("guidance", {"interval": [2, 1]}),
    ("training.validation.metric", "fid"),  # a rule that joins keys: it depends on what the run logs
]
WRONG = [
    (key, value)
    for key, value in [*BAD, *((key, value) for key, value, _ in ENTRIES)]
    if (key, value) not in BEYOND_JSON_SCHEMA and not (isinstance(value, float) and math.isnan(value))
]

Place = tuple[str | int, ...]


def validator(name: str) -> Draft7Validator:
    return Draft7Validator(json.loads((SCHEMA / name).read_text(encoding="utf-8")))


WHOLE = validator("config.schema.json")


def schema_of(path: Path) -> str:
    """Return the schema that a file of conf/ should name, by its path and package."""
    if path.parent.name == "standalone":
        return "config.schema.json"
    package = package_of(path) or {"sample.yaml": "sample", "evaluate.yaml": "evaluate"}.get(path.name, "_global_")
    return f"conf/{package}.schema.json"


def load(path: Path) -> dict[str, Any]:
    tree: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return tree


def places(tree: Any, here: Place = ()) -> Iterator[Place]:
    """Yield the paths of values that are not mappings, except those of Hydra."""
    for name, value in tree.items():
        if name in ("hydra", "defaults"):
            continue
        yield from places(value, (*here, name)) if isinstance(value, dict) else [(*here, name)]


def changed(tree: dict[str, Any], place: Place, value: object, name: str | None = None) -> dict[str, Any]:
    """Return a tree with one value replaced, or renamed."""
    tree = deepcopy(tree)
    parent: Any = tree
    for part in place[:-1]:
        parent = parent[part]
    del parent[place[-1]]
    parent[name or place[-1]] = value
    return tree


def value_at(tree: Any, place: Place) -> Any:
    for part in place:
        tree = tree[part]
    return tree


def test_files_are_current() -> None:
    written = {path: path.read_text(encoding="utf-8") for path in SCHEMA.rglob("*") if path.is_file()}
    assert written == make_schema.contents(), "run `make schema`"


@pytest.mark.parametrize("path", sorted(SCHEMA.rglob("*.json")), ids=lambda path: path.name)
def test_each_schema_is_valid(path: Path) -> None:
    Draft7Validator.check_schema(json.loads(path.read_text(encoding="utf-8")))


class TestFilesOfConf:
    @pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CONF)))
    def test_names_its_schema_below_the_line_that_hydra_reads(self, path: Path) -> None:
        lines = path.read_text(encoding="utf-8").splitlines()
        line = lines[1] if lines[0].startswith("# @package") else lines[0]
        if line.startswith(MODELINE):
            assert (path.parent / line.removeprefix(MODELINE)).resolve() == SCHEMA / schema_of(path)
        else:
            assert path not in SHIPPED

    @pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CONF)))
    def test_is_accepted(self, path: Path) -> None:
        validator(schema_of(path)).validate(load(path))

    @pytest.mark.parametrize(
        "path", [path for path in FILES if package_of(path) != HYDRA], ids=lambda path: str(path.relative_to(CONF))
    )
    def test_each_invalid_change_is_refused(self, path: Path) -> None:
        schema, tree = validator(schema_of(path)), load(path)
        for place in places(tree):
            value = value_at(tree, place)
            if place[:-1] != ("output", "subdirs"):  # where further names are allowed
                assert not schema.is_valid(changed(tree, place, value, name=f"{place[-1]}x")), f"{place} mistyped"
            wrong: list[object] = [{"a": 1}, [[]]]
            if not (isinstance(value, str) and "${" in value):  # it may refer to a value of any other type
                wrong.append(True if isinstance(value, str | None) else "no reference")
            for other in wrong:
                assert not schema.is_valid(changed(tree, place, other)), f"{place} = {other}"

    @pytest.mark.parametrize(
        "path",
        [path for path in FILES if path.parent.name != "standalone"],
        ids=lambda path: str(path.relative_to(CONF)),
    )
    def test_references_and_missing_values_are_accepted_anywhere(self, path: Path) -> None:
        schema, tree = validator(schema_of(path)), load(path)
        for place in places(tree):
            for value in ("${some.key}", "folder/${now:%Y}", "???"):
                assert schema.is_valid(changed(tree, place, value)), f"{place} = {value}"
            if isinstance(value_at(tree, place), list) and value_at(tree, place):
                entries = ["${some.key}", *value_at(tree, place)[1:]]
                assert schema.is_valid(changed(tree, place, entries)), place


class TestCompleteFiles:
    def test_default_is_accepted(self) -> None:
        WHOLE.validate(get_default_config())

    def test_minimal_file_is_accepted(self) -> None:
        path = FIXTURES.parent / "diffusion_minimal.yaml"
        WHOLE.validate(load(path))

    @pytest.mark.parametrize(("key", "name"), CHOSEN)
    def test_names_are_accepted_in_any_case(self, key: str, name: str) -> None:
        tree = get_default_config()
        if key.startswith("training.scheduler.") and name not in ("auto", "cosine"):
            tree["training"]["scheduler"] = {"type": "Plateau"}
        if name == "dit":
            sizes = {"hidden_size": 8, "depth": 2, "num_heads": 2}
            tree["model"]["architecture"] = {"image_size": 8, "in_channels": 1, **sizes}
        several = key == "logger.backends"
        put(tree, key, [name.title()] if several else name.title())
        WHOLE.validate(tree)
        put(tree, key, [f"{name}x"] if several else f"{name}x")
        assert not WHOLE.is_valid(tree)

    def test_other_spellings_of_a_mode_of_none_and_of_options_are_accepted(self) -> None:
        WHOLE.validate({"mode": "Generate", "generation": {"checkpoint": "a"}, "output": {"base_dir": "b"}})
        for key, value in {
            "training.scheduler.type": "None",
            "compute.device": "CUDA:1",
            "model.conditioning.num_classes": "none",
            "sampler": {"type": "ddpm", "variance": "Large"},
        }.items():
            tree = get_default_config()
            put(tree, key, value)
            WHOLE.validate(tree)

    @pytest.mark.parametrize(("key", "value"), GOOD)
    def test_value_within_the_bounds_is_accepted(self, key: str, value: object) -> None:
        tree = get_default_config()
        put(tree, key, value)
        WHOLE.validate(tree)

    @pytest.mark.parametrize(("key", "value"), WRONG)
    def test_value_beyond_the_bounds_is_refused(self, key: str, value: object) -> None:
        tree = get_default_config()
        put(tree, key, value)
        assert not WHOLE.is_valid(tree)

    @pytest.mark.parametrize("key", leaves(get_default_config()))
    def test_each_key_is_required_by_its_name(self, key: str) -> None:
        place, tree = tuple(key.split(".")), get_default_config()
        value = value_at(tree, place)
        assert not WHOLE.is_valid(changed(tree, place, value, name=f"{place[-1]}s"))

    def test_missing_marks_have_no_place_in_them(self) -> None:
        assert not WHOLE.is_valid(changed(get_default_config(), ("training", "epochs"), "???"))
        WHOLE.validate(changed(get_default_config(), ("training", "epochs"), "${generation.sampling.num_samples}"))

    def test_generating_needs_no_section_of_training(self) -> None:
        tree = get_default_config()
        for section in ("model", "data", "training"):
            del tree[section]
        assert not WHOLE.is_valid(tree)
        WHOLE.validate(tree | {"mode": "generate"})
        WHOLE.validate(tree | {"mode": "generate", "model": None})

    def test_generating_accepts_partial_sections_of_training(self) -> None:
        tree = get_default_config() | {"mode": "generate", "data": {"paths": {"train": "flowers"}}}
        tree |= {"training": {"epochs": 3, "scheduler": {"type": "cosine"}}}
        tree["model"] = {"architecture": {"image_size": 16}, "diffusion": {"num_timesteps": 20}}
        WHOLE.validate(tree)
        assert not WHOLE.is_valid(tree | {"training": {"epoch": 3}})
        assert not WHOLE.is_valid(tree | {"model": {"diffusion": {"num_timesteps": 0}}})
        assert not WHOLE.is_valid(tree | {"mode": "train"})

    def test_list_of_two_is_neither_longer_nor_out_of_bounds(self) -> None:
        place = ("training", "optimizer", "betas")
        for value in ([0.9, 1], [1, 0.9], [0.9], [0.9, 0.9, 0.9]):
            assert not WHOLE.is_valid(changed(get_default_config(), place, value))


OPTIONS: list[tuple[str, dict[str, object], bool]] = [
    ("training.optimizer", {"learnin_rate": 1}, False),
    ("training.optimizer", {"type": "adam", "eps": 1e-6, "sign": True}, False),
    ("training.optimizer", {"type": "my_lab.Lion", "sign": True}, True),
    ("training.optimizer", {"type": "my_lab.Lion", "learning_rate": 0}, False),
    ("training.optimizer", {"type": "my lab.Lion"}, False),
    ("model.architecture", {"type": "unet", "depth": 3}, False),
    ("model.architecture", {"type": "${net}", "depth": 3}, True),
    ("training.scheduler", {"type": "step", "step_size": 3, "gamma": 0.5}, True),
    ("training.scheduler", {"type": "step", "patience": None}, True),  # as the validation has it
    ("training.scheduler", {"type": "step", "patience": 3}, False),
    ("training.scheduler", {"type": None, "T_max": "auto"}, True),
    ("training.scheduler", {"type": None, "power": 2}, False),
    ("training.scheduler", {"type": "my_lab.Power", "power": 2}, True),
    ("training.scheduler", {"gamma": 0.5}, True),
    ("training.scheduler", {"gamma": 0}, False),
    ("training.scheduler", {"gama": 0.5}, False),
    ("sampler", {"type": "ddim", "eta": 0.5}, True),
    ("sampler", {"type": "ddim", "eta": 1.5}, False),
    ("sampler", {"type": "ddim", "variance": "small"}, False),
    ("sampler", {"type": "ddpm", "variance": "small"}, True),
    ("sampler", {"type": "ddpm", "steps": 0}, False),
    ("sampler", {"type": "dddpm"}, False),
    ("sampler", {"type": "my_lab.Heun", "churn": 2}, True),
    ("sampler", {"type": "???", "churn": 2}, True),  # it may become one's own class
    ("sampler", {"steps": 20, "variance": "large"}, True),
    ("sampler", {"steps": "many"}, False),
    ("sampler", {"chrun": 2}, False),
    ("_global_", {"sampler": {"chrun": 2}}, False),
    ("_global_", {"hydra": {"sweeper": {"params": {}}}}, True),
    ("_global_", {"hydra": {"sweper": {}}}, False),
    ("_global_", {"defaults": ["a", {"override /model": "unet_tiny"}, {"logger": None}, {"a": ["b", "c"]}]}, True),
    ("_global_", {"defaults": [{"model": 3}]}, False),
    ("_global_", {"num_samples": 3}, False),
    ("_global_", {"name": "mine"}, True),
    ("_global_", {"name": 3}, False),
    ("guidance", {"interval": [0.2, 3]}, True),
    ("guidance", {"interval": [0.2, "${high}"]}, True),
    ("guidance", {"interval": [0.2]}, False),
    ("guidance", {"scale": 3}, False),
    ("hydra", {"sweep": {"dir": "a"}}, True),
    ("hydra", {"swep": {"dir": "a"}}, False),
    ("sample", {"num_samples": 3, "ckpt": "a", "labels": [3, "cat"], "use_ema": True}, True),
    ("sample", {"num_samples": 0}, False),
    ("sample", {"sed": 0}, False),
    ("sample", {"labels": 3}, False),
    ("sample", {"guidance_scale": [1, 2.5], "ema_decay": 0.9}, True),
    ("sample", {"guidance_scale": []}, False),
    ("sample", {"ema_decay": 1}, False),
]


@pytest.mark.parametrize(("package", "tree", "accepted"), OPTIONS)
def test_options_of_each_type_in_a_part_of_a_tree(package: str, tree: dict[str, object], accepted: bool) -> None:
    assert validator(f"conf/{package}.schema.json").is_valid(tree) is accepted


def test_complete_file_without_a_type_has_the_options_of_the_default() -> None:
    assert WHOLE.is_valid(get_default_config() | {"sampler": {"eta": 0.5}})
    assert not WHOLE.is_valid(get_default_config() | {"sampler": {"variance": "small"}})


def test_cosine_needs_its_options() -> None:
    tree = changed(get_default_config(), ("training", "scheduler"), {"type": "cosine", "T_max": "auto"})
    assert not WHOLE.is_valid(tree)
    tree["training"]["scheduler"]["eta_min"] = 0
    WHOLE.validate(tree)


def test_short_names_are_those_that_the_code_drops() -> None:
    assert set(short_names(CONF / "sample.yaml")) == set(SHORT_NAMES)


def test_each_key_has_a_meaning() -> None:
    def unexplained(node: Any, name: str = "") -> Iterator[str]:
        for key, value in node.get("properties", {}).items():
            if not ("description" in value or "$ref" in value or any("$ref" in item for item in value["anyOf"][:1])):
                yield f"{name}.{key}"

    document = WHOLE.schema
    assert not [key for name, node in document["$defs"].items() for key in unexplained(node, name)]
    options = [type_options(choice, name) for choice in SECTIONS for name in choice.NAMED]
    assert all(option["description"] for own in options for option in own.values())


def test_a_package_that_is_not_a_section() -> None:
    with pytest.raises(ValueError, match=r"# @package training\.optimiser: the tree has no section optimiser"):
        package_schema("training.optimiser")
