"""Command line of a settings tree: short, and with exactly these settings."""

from __future__ import annotations

import doctest
import shlex
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hydra import compose
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

from diffusion_lab.cli import nearest_command
from diffusion_lab.cli.compose import compose_generate_config, compose_train_config
from diffusion_lab.cli.conf_files import ConfFiles
from diffusion_lab.cli.hydra_app import initialized_hydra
from diffusion_lab.config import ConfigError, parse_config
from diffusion_lab.console import command_line
from diffusion_lab.console.command_line import hydra_text
from diffusion_lab.typed_settings import settings_reader
from diffusion_lab.typed_settings.settings_reader import leaves
from tests.config.conftest import CONF, Change, put

RECIPES = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
CHOICES: list[dict[str, str]] = [
    {},
    *({"experiment": recipe} for recipe in RECIPES),
    {"data": "image_folder"},
    {"data": "cifar10", "model": "unet_base"},
    {"experiment": "emoji", "data": "mnist"},
    {"experiment": "emoji", "model": "unet_tiny", "conditioning": "none"},
    {"optimizer": "adam", "scheduler": "step", "ema": "off", "sampler": "ddpm", "logger": "all"},
    {"diffusion": "linear", "callbacks": "quiet", "performance": "exact"},
]


class PlainSampler:
    """Custom sampler without declared options."""

    def __init__(self, **options: object) -> None:
        self.options = options


def words(tree: dict[str, Any]) -> list[str]:
    """Return the arguments of the command line for a tree."""
    _, _, *arguments = shlex.split(nearest_command.nearest_command(tree, CONF))
    return arguments


def composed(script: str, *arguments: str) -> DictConfig:
    """Compose without the fixture: only one Hydra can be initialized, and finding the command line does so."""
    with initialized_hydra("app", CONF):
        return compose(script, list(arguments))


def plain(tree: DictConfig, resolve: bool) -> dict[str, Any]:
    container = OmegaConf.to_container(tree, resolve=resolve)
    assert isinstance(container, dict)
    return container  # type: ignore[return-value]


@pytest.mark.parametrize("module", [command_line, settings_reader], ids=lambda module: module.__name__)
def test_examples_in_docstrings(module: ModuleType) -> None:
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_files_are_read_as_hydra_composes_them(choice: dict[str, str]) -> None:
    expected = leaves(plain(composed("train", *(f"{group}={name}" for group, name in choice.items())), resolve=False))
    assert ConfFiles(CONF, "train").composed(choice) == expected


def test_recipe_may_build_on_another(tmp_path: Path) -> None:
    conf = tmp_path / "conf"
    shutil.copytree(CONF, conf)
    (conf / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - emoji\n  - _self_\nexperiment: mine\ntraining:\n  epochs: 3\n"
    )
    files = ConfFiles(conf, "train")
    expected = files.composed({"experiment": "emoji"}) | {"experiment": "mine", "training.epochs": 3}
    assert files.composed({"experiment": "mine"}) == expected
    assert files.nearest_choice(expected) == {"experiment": "mine"}


def test_files_for_generating_are_read_as_hydra_composes_them() -> None:
    choice = {"sampler": "ddpm", "model": "unet_tiny", "diffusion": "linear", "conditioning": "class"}
    expected = leaves(plain(composed("sample", *(f"{group}={name}" for group, name in choice.items())), resolve=False))
    assert ConfFiles(CONF, "sample").composed(choice) == expected


@pytest.mark.parametrize("choice", CHOICES[-5:], ids=str)
def test_choice_is_found_again(tmp_path: Path, choice: dict[str, str]) -> None:
    """Settings composed from files of conf/ need only the names of such files, and the run folder."""
    given = [f"{group}={name}" for group, name in choice.items()]
    tree = plain(composed("train", *given, "output.base_dir=mine"), resolve=True)
    if tree["data"]["type"] == "image_folder":
        tree["data"]["paths"]["train"] = str(tmp_path)
    if tree["model"]["conditioning"]["type"] == "class" and tree["model"]["conditioning"]["num_classes"] is None:
        tree["model"]["conditioning"]["num_classes"] = 3
    found = words(tree)
    keys = {word.split("=")[0] for word in found if "." in word.split("=")[0]}
    assert keys <= {"output.base_dir", "data.paths.train", "model.conditioning.num_classes"}
    assert len(found) - len(keys) <= len(choice)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"training.epochs": 7, "compute.seed": 0, "training.optimizer.learning_rate": 3e-7},
        {"training.scheduler": {"type": "step"}, "training.optimizer.eps": 1e-6},
        {"training.scheduler": {"type": "plateau", "patience": 0}, "sampler": {"type": "ddpm", "variance": "large"}},
        {
            "model.conditioning.type": "class",
            "model.conditioning.num_classes": 3,
            "generation.sampling.labels": ["a b", 2],
        },
        {
            "data.background": "#aabbcc",
            "output.base_dir": "it's here",
            "logger": {"backends": ["wandb"], "group": "null"},
        },
        {"training.ema.further_decays": [0.9, 0.99], "generation.sampling.guidance_scale": [1, 2.5]},
        {"guidance": {"interval": [0.28, 2.9], "rescale": 0.5}},
        {"training.optimizer.type": "torch.optim.NAdam", "training.optimizer.momentum_decay": 0.1},
        {"sampler": {"type": f"{__name__}.PlainSampler", "window": [1, 2]}},
        {"model.architecture.channel_multipliers": [1, 2], "model.architecture.use_attention": [False, True]},
    ],
    ids=str,
)
def test_command_gives_the_settings_of_the_tree(changed: Change, values: dict[str, Any]) -> None:
    tree = changed(values)
    config = compose_train_config(composed("train", *words(tree)))
    wanted = parse_config(tree)
    assert vars(config.sampler.build()) == vars(wanted.sampler.build())
    assert config.model_copy(update={"sampler": wanted.sampler}) == wanted


def test_only_differences_are_in_the_command(changed: Change, tmp_path: Path) -> None:
    assert words(changed({"training.epochs": 3})) == [
        "experiment=v2_default", f"data.paths.train={tmp_path}", "training.epochs=3", "logger.group=null",
    ]  # fmt: skip


def test_a_generation_tree(changed: Change, tmp_path: Path) -> None:
    tree = changed({"mode": "generate", "generation.checkpoint": str(tmp_path), "experiment": "any", "compute.seed": 3})
    put(tree, "model.conditioning", {"type": "class", "num_classes": 4, "class_dropout_prob": 0.1})
    found = words(tree)
    assert {f"ckpt={tmp_path}", "seed=3", "device=cuda", "guidance_scale=3.0", "conditioning=class"} <= set(found)
    config, wanted = compose_generate_config(composed("sample", *found)), parse_config(tree)
    assert (config.model, config.generation, config.compute, config.output) == (
        wanted.model, wanted.generation, wanted.compute, wanted.output,
    )  # fmt: skip


def test_generating_without_a_model(changed: Change, tmp_path: Path) -> None:
    tree = changed({"mode": "generate", "generation.checkpoint": str(tmp_path)})
    for section in ("model", "data", "training"):
        del tree[section]
    assert not [word for word in words(tree) if word.startswith(("model", "diffusion", "conditioning"))]


def test_any_name_of_the_experiment_can_be_given(changed: Change) -> None:
    assert "name=mine" in words(changed({"experiment": "mine"}))
    assert not [word for word in words(changed({"experiment": "diffusion"})) if word.startswith("name=")]


def test_settings_that_no_command_line_reproduces(changed: Change) -> None:
    tree = changed({}) | {"sampler": {"type": f"{__name__}.PlainSampler", "a b": 1}}
    with pytest.raises(ValueError, match=r"no command line reproduces these settings: .*sampler\.a b"):
        words(tree)


def test_faults_of_the_tree_are_reported(changed: Change) -> None:
    with pytest.raises(ConfigError, match=r"training\.epochs = 0"):
        words(changed({"training.epochs": 0}))


def test_command_that_would_differ_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    tree = plain(composed("train", "training.epochs=3"), resolve=True)
    monkeypatch.setattr(nearest_command, "MAX_ROUNDS", 0)
    with pytest.raises(ConfigError, match=r"training\.epochs = 3: no command line was found that reproduces it"):
        words(tree)


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()


names = st.from_regex(r"[a-z]+", fullmatch=True)


@given(st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(names, inner), max_leaves=5))
def test_hydra_parses_the_printed_values(value: object) -> None:
    (override,) = OverridesParser.create().parse_overrides([f"key={hydra_text(value)}"])
    assert OmegaConf.to_container(OmegaConf.create({"key": override.value()}), resolve=True) == {"key": value}
