"""docs/configuration.md is current, and its tables match the code."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose
from omegaconf import OmegaConf

import diffusion_lab.cli.compose  # noqa: F401 - registers the resolvers of conf/
from diffusion_lab.cli.hydra_app import initialized_hydra
from diffusion_lab.config import TrainConfig, get_default_config
from diffusion_lab.config.optimizer_section import OPTIMIZERS
from diffusion_lab.config.schema import CHOICES
from diffusion_lab.typed_settings.choice import ChoiceSettings
from diffusion_lab.typed_settings.settings_reader import SettingsReader, known_keys
from diffusion_lab.typed_settings.settings_reader import leaves as plain_leaves
from scripts import make_docs
from tests.config.conftest import CONF
from tests.config.test_schema import leaves

PAGE = make_docs.PAGE.read_text(encoding="utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("| ").split(" | ")]
    for line in PAGE.partition("## Keys")[2].splitlines()
    if re.match(r"\| `[\w.]+`( †)? \| .* \| .* \| ", line)
]
OPTIONS = {f"{choice.KEY}.{option}" for choice in CHOICES for option in choice.all_options()}
KEYS = {key: row for row in ROWS if (key := row[0].split("`")[1]) not in OPTIONS}
DEFAULTS = leaves(get_default_config())


def test_page_is_current() -> None:
    assert make_docs.page() == PAGE, "run `make docs`"


def test_each_key_has_one_row_in_the_section_it_belongs_to() -> None:
    keys = set(known_keys(TrainConfig))
    sections = {key.rpartition(".")[0] for key in keys}
    assert set(KEYS) == keys - sections - OPTIONS
    assert max(Counter(row[0] for row in KEYS.values()).values()) == 1


@pytest.mark.parametrize("key", DEFAULTS)
def test_default_is_that_of_the_default_tree(key: str) -> None:
    rows = [row for row in ROWS if row[0].split("`")[1] == key]
    assert rows  # an option has one for each type that has it
    for name, kind, default, _, meaning in rows:
        assert "†" not in name
        assert yaml.safe_load(default.strip("`")) == SettingsReader(get_default_config(), TrainConfig)[key]
        assert len(kind) > 3
        assert meaning.endswith(".")


def test_extensions_are_marked_and_have_the_default_of_the_schema() -> None:
    marked = {key for key, row in KEYS.items() if "†" in row[0]}
    assert marked == set(KEYS) - set(DEFAULTS) - make_docs.V2_OPTIONAL
    written = {key: yaml.safe_load(KEYS[key][2].strip("`")) for key in marked}
    reader = SettingsReader(get_default_config(), TrainConfig)
    assert {key: list(value) if isinstance(value := reader[key], tuple) else value for key in marked} == written


def test_the_other_column_is_what_train_composes(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(variable)
    with initialized_hydra("app", CONF):
        tree: Any = OmegaConf.to_container(compose("train"), resolve=True)
    run_folder = Path(tree["output"].pop("base_dir"))
    assert run_folder.parent == Path("outputs/digits")
    values = plain_leaves(tree)
    written = {key: row[3] for key, row in KEYS.items()}
    assert written.pop("output.base_dir") == "`outputs/EXPERIMENT/TIME`"
    assert {key for key, cell in written.items() if cell == "—"} == written.keys() - values.keys()
    assert {key: yaml.safe_load(cell.strip("`")) for key, cell in written.items() if cell != "—"} == {
        key: value for key, value in values.items() if key in written
    }


@pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: choice.KEY)
def test_each_type_has_its_options(choice: type[ChoiceSettings]) -> None:
    text = re.split(rf"^##+ `{re.escape(choice.KEY)}`$", PAGE, flags=re.MULTILINE)[1].partition("\n##")[0]
    for name in (name for name in choice.NAMED if choice.path_of(name) is None):
        kind = "null" if name is None else name
        own = text.partition("\n`type: ")[0] + text.partition(f"\n`type: {kind}`")[2].partition("\n`type: ")[0]
        found = set(re.findall(rf"^\| `{re.escape(choice.KEY)}\.(\w+)`", own, re.MULTILINE)) - {*choice.model_fields}
        assert found == set(choice.options_of(name))


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("compute.seed", "integer ≥ 0 or `null`"),
        ("model.architecture.in_channels", "`1`, `3`, `4` or `auto`"),
        ("model.diffusion.beta_start", "number, 0 < x < 1"),
        ("model.architecture.use_attention", "list of booleans"),
        ("training.optimizer.type", f"{', '.join(f'`{name}`' for name in OPTIMIZERS)} or dotted path"),
        ("training.optimizer.betas", "2 numbers, 0 ≤ x < 1"),
        ("training.scheduler.T_max", "integer ≥ 1, `auto`, or `null`"),
        ("output.subdirs.logs", "folder name"),
        ("generation.sampling.guidance_scale", "number ≥ 0 or non-empty list of numbers ≥ 0"),
        ("guidance.interval", "2 numbers ≥ 0 or `null`"),
        ("mode", "`train` or `generate`"),
    ],
)
def test_bounds_are_described(key: str, kind: str) -> None:
    assert next(row for row in ROWS if row[0].split("`")[1] == key)[1] == kind


def test_groups_and_recipes_are_those_of_conf() -> None:
    for folder in (path for path in CONF.iterdir() if path.is_dir() and path.name != "standalone"):
        (row,) = re.findall(rf"^\| `{folder.name}` \|.*$", PAGE.partition("## Keys")[0], re.MULTILINE)
        assert set(re.findall(r"`(\w+)`", row.split(" | ")[2])) == {path.stem for path in folder.glob("*.yaml")}
    assert re.search(r"^\| `experiment=digits` \| Handwritten digits", PAGE, re.MULTILINE)
