"""Recipes of conf/experiment: each composes, is valid, and creates the parts of a run."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from diffusion_lab.cli.compose import compose_train_config
from diffusion_lab.cli.conf_files import ConfFiles
from diffusion_lab.cli.key_locations import KeyLocations, composed_key_locations
from diffusion_lab.config import ConfigError, ConfigWarning, TrainConfig
from diffusion_lab.create import create_denoiser
from diffusion_lab.diffusion.schedules import linear_betas
from diffusion_lab.run_images.classes import with_counted_classes
from diffusion_lab.training.create import create_loss
from diffusion_lab.training.lr_schedules import create_schedule
from diffusion_lab.training.optimizers import create_optimizer
from diffusion_lab.training.sources import create_datamodule
from tests.commands.conftest import succeeds
from tests.config.conftest import CONF, put

Recipe = Callable[..., TrainConfig]

NAMES = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
ESSENTIAL = {"model", "diffusion", "conditioning", "data", "optimizer", "scheduler", "ema"}


@pytest.fixture
def recipe(composed: Callable[..., DictConfig], tmp_path: Path) -> Recipe:
    """Return the settings of a recipe; recipes for custom images get a folder with some."""

    def make(name: str, *overrides: str) -> TrainConfig:
        if yaml.safe_load((CONF / "experiment" / f"{name}.yaml").read_text())["defaults"].count(
            {"override /data": "image_folder"}
        ):
            pixels = np.random.default_rng(0).integers(0, 256, (5, 70, 80, 3), dtype=np.uint8)
            for number, picture in enumerate(pixels):
                Image.fromarray(picture).save(tmp_path / f"{number}.png")
            overrides = (f"data.paths.train={tmp_path}", *overrides)
        return compose_train_config(composed("train", f"experiment={name}", *overrides))

    return make


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_chooses_all_groups(name: str) -> None:
    """Recipes stay the same when the defaults of train.yaml change."""
    entries = yaml.safe_load((CONF / "experiment" / f"{name}.yaml").read_text())["defaults"]
    assert {key.removeprefix("override /") for entry in entries for key in entry} >= ESSENTIAL


@pytest.mark.parametrize("name", NAMES)
def test_is_valid_and_named(name: str, recipe: Recipe) -> None:
    with warnings.catch_warnings():
        if name != "v2_default":  # whose values are given by the format
            warnings.simplefilter("error", ConfigWarning)
        config = recipe(name)
    assert config.experiment == {"v2_default": "diffusion"}.get(name, name)


@pytest.mark.parametrize("name", NAMES)
def test_creates_a_run_and_takes_a_step(name: str, recipe: Recipe) -> None:
    config = recipe(name)
    shape = (2, config.model.architecture.in_channels, *[config.model.architecture.image_size] * 2)
    images, labels, names = torch.zeros(shape), None, ()
    if config.data.type != "cifar10":  # it would have to be downloaded
        data = create_datamodule(config, seed=0)
        names = data.class_names
        with warnings.catch_warnings():
            warnings.simplefilter("error", ConfigWarning)
            config = with_counted_classes(config, names)
        assert data.train.load(0, None).shape == shape[1:]
        assert data.steps_per_epoch >= 1
    if config.model.conditioning.type == "class":
        labels = torch.tensor([0, config.model.conditioning.classes - 1])
    denoiser = create_denoiser(config.model, names)
    training = config.training
    optimizer = create_optimizer(training.optimizer, denoiser.parameters())
    create_schedule(training.scheduler.type, training.scheduler_options(), optimizer, 100, "val/loss")
    levels = config.sampler.build().levels(denoiser.schedule)
    assert levels[-1].sigma == 0
    loss = create_loss(training.loss, config.model.conditioning.class_dropout_prob)(denoiser, images, labels, seed=0)
    loss.backward()
    before = denoiser.network.leave[-1].weight.detach().clone()
    optimizer.step()
    assert not torch.equal(denoiser.network.leave[-1].weight, before)


class TestDdpmCifar10:
    """Values of arXiv:2006.11239, appendix B, and of its code."""

    def test_steps_and_learning_rate(self, recipe: Recipe) -> None:
        config = recipe("ddpm_cifar10")
        steps = config.training.epochs * (50_000 // config.data.loading.batch_size)
        assert abs(steps - 800_000) < 390
        weight = torch.nn.Parameter(torch.zeros(1))
        optimizer = create_optimizer(config.training.optimizer, [weight])
        options = config.training.scheduler_options()
        entry = create_schedule(config.training.scheduler.type, options, optimizer, steps, "val/loss")
        assert entry is not None
        (share,) = entry["scheduler"].lr_lambdas
        rates = [2e-4 * share(step) for step in (0, 2500, 5000, 400_000, steps)]
        assert rates == pytest.approx([0, 1e-4, 2e-4, 2e-4, 2e-4], abs=1e-7)

    def test_network_and_process(self, recipe: Recipe) -> None:
        denoiser = create_denoiser(recipe("ddpm_cifar10").model, ())
        count = sum(weight.numel() for weight in denoiser.network.parameters())
        assert f"{count / 1e6:.1f} million parameters" in (CONF / "experiment" / "ddpm_cifar10.yaml").read_text()
        heads = {name: module.heads for name, module in denoiser.network.named_modules() if hasattr(module, "heads")}
        assert set(heads.values()) == {1}
        assert {name.partition(".blocks")[0] for name in heads} == {"down.1", "up.2"}  # 16×16 of 32×32
        assert torch.equal(denoiser.schedule.betas, linear_betas(1000, 1e-4, 0.02))

    def test_the_command_line_takes_precedence(self, recipe: Recipe) -> None:
        config = recipe("ddpm_cifar10", "training.optimizer.learning_rate=1e-3", "training.epochs=3")
        assert config.training.scheduler.eta_min == 1e-3
        assert config.training.epochs == 3
        assert config.model.architecture.model_channels == 128


class TestDdpmSmallImages:
    def test_without_a_folder_the_missing_key_is_reported(
        self, composed: Callable[..., DictConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(ConfigError, match=r"data\.paths\.train = .*must be an existing folder of images"):
            compose_train_config(composed("train", "experiment=ddpm_small_images"))

    def test_takes_classes(self, recipe: Recipe) -> None:
        config = recipe("ddpm_small_images", "conditioning=class", "model.conditioning.num_classes=3")
        assert config.model.conditioning.classes == 3


def group_files() -> list[tuple[str, str]]:
    """Each choice that a command line can combine with a recipe."""
    folders = (path for path in CONF.iterdir() if path.is_dir() and path.name not in ("experiment", "standalone"))
    return sorted((path.parent.name, path.stem) for folder in folders for path in folder.glob("*.yaml"))


REFUSED_WITH_REASON = {
    # the recipe trains on all images
    ("ddpm_cifar10", "scheduler=plateau"): "add training.validation.enabled=true to the command",
}


def test_following_the_advice_makes_a_refused_choice_valid(recipe: Recipe) -> None:
    config = recipe("ddpm_cifar10", "scheduler=plateau", "training.validation.enabled=true")
    assert (config.training.scheduler.type, config.training.validation.enabled) == ("plateau", True)


class TestChoicesBesideARecipe:
    """Values that a recipe sets for its own choice of a group do not conflict with another choice."""

    @pytest.mark.parametrize("name", NAMES)
    def test_every_choice_of_every_group_is_valid(self, name: str, tmp_path: Path) -> None:
        files, refused = ConfFiles(CONF, "train"), {}
        for group, file in group_files():
            tree: dict[str, Any] = {}
            for key, value in files.composed({"experiment": name, group: file}).items():
                put(tree, key, value)
            if tree["data"]["type"] == "image_folder":
                tree["data"]["paths"]["train"] = str(tmp_path)
            locations = KeyLocations()
            locations.add_file(
                CONF / "sampler" / f"{tree['sampler']['type']}.yaml", "sampler"
            )  # steps come from a file
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", ConfigWarning)
                    compose_train_config(OmegaConf.create(tree), lambda found=locations: found)  # type: ignore[misc]
            except ConfigError as error:
                refused[name, f"{group}={file}"] = str(error)
        expected = {choice: reason for choice, reason in REFUSED_WITH_REASON.items() if choice[0] == name}
        assert refused.keys() == expected.keys(), refused
        assert all(reason in refused[choice] for choice, reason in expected.items())

    @pytest.mark.parametrize("name", ["fast_debug", "ddpm_cifar10", "ddpm_small_images"])
    def test_hydra_composes_the_files_alike(self, name: str, composed: Callable[..., DictConfig]) -> None:
        for group, section in (
            ("scheduler", "training.scheduler"),
            ("sampler", "sampler"),
            ("optimizer", "training.optimizer"),
            ("model", "model.architecture"),
        ):
            own = yaml.safe_load((CONF / "experiment" / f"{name}.yaml").read_text())["defaults"]
            taken = next((entry[f"override /{group}"] for entry in own if f"override /{group}" in entry), None)
            for file in sorted((CONF / group).glob("*.yaml")):
                found = OmegaConf.select(composed("train", f"experiment={name}", f"{group}={file.stem}"), section)
                plain: Any = OmegaConf.to_container(found, resolve=False)
                expected = yaml.safe_load(file.read_text())
                if group == "model":  # these two are the data's
                    plain, expected = (
                        {key: value for key, value in tree.items() if key not in ("image_size", "in_channels")}
                        for tree in (plain, expected)
                    )
                if taken not in (None, file.stem):
                    assert plain == expected, (group, file.stem)

    def test_values_of_a_recipe_apply_to_its_own_choice_only(self, composed: Callable[..., DictConfig]) -> None:
        tree = composed("train", "experiment=fast_debug", "scheduler=warmup_cosine", "optimizer=adam")
        assert tree.training.scheduler.warmup_steps == 4
        assert tree.training.epochs == 2
        assert tree.name == "fast_debug"

    def test_other_data_sets_its_own_size(self, composed: Callable[..., DictConfig]) -> None:
        tree = composed("train", "experiment=ddpm_small_images", "data=cifar10")
        assert tree.model.architecture.image_size == 32
        assert tree.model.architecture.model_channels == 48  # the network is still the recipe's
        assert tree.name == "ddpm_small_images"

    def test_typed_values_take_precedence(self, composed: Callable[..., DictConfig]) -> None:
        tree = composed("train", "experiment=fast_debug", "model=unet_base", "model.architecture.model_channels=64")
        assert tree.model.architecture.model_channels == 64

    def test_a_fault_names_the_file_that_counts(self, composed: Callable[..., DictConfig]) -> None:
        """The fault does not name the line of the recipe, which is ignored."""
        arguments = ("experiment=fast_debug", "scheduler=step", "sampler=heun", "training.epochs=0")
        composed("train", *arguments)
        assert str(composed_key_locations("train", arguments).location_of("sampler.steps")).startswith(
            "conf/sampler/heun.yaml:"
        )

    def test_a_preset_of_more_steps_follows_a_short_process(self, composed: Callable[..., DictConfig]) -> None:
        arguments = ("experiment=fast_debug", "sampler=best")
        config = compose_train_config(composed("train", *arguments), lambda: composed_key_locations("train", arguments))
        assert config.sampler.build().steps == 20


def test_fast_debug_runs_to_the_end(tmp_path: Path) -> None:
    succeeds(tmp_path, "train.py", "experiment=fast_debug", "compute.device=cpu")
    (run,) = (tmp_path / "outputs" / "fast_debug").iterdir()
    assert json.loads((run / "status.json").read_text())["state"] == "finished"
    assert len(list((run / "checkpoints").glob("step_*.ckpt"))) == 2
    assert (run / "checkpoints" / "best.ckpt").is_file()
    assert {path.name for path in (run / "samples").iterdir()} == {"epoch_0001.png", "epoch_0002.png"}
    logged = [json.loads(line) for line in (run / "logs" / "metrics.jsonl").read_text().splitlines()]
    assert sum("val/loss" in line for line in logged) == 2
    assert json.loads((run / "summary.json").read_text())["steps"] <= 30
