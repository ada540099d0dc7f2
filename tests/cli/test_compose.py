"""Files of ``conf/``: every choice composes to a valid tree, with the values in the right places."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import DictConfig, OmegaConf

from diffusion_lab.cli.compose import compose_generate_config, compose_train_config, run_folder
from diffusion_lab.cli.key_locations import composed_key_locations
from diffusion_lab.config import ConfigError, TrainConfig, get_default_config, validate_config
from diffusion_lab.config.data_section import DATA_SETS
from diffusion_lab.sweeps.folders import job_folder
from tests.config.conftest import CONF
from tests.typed_settings.own_classes import HERE

Composed = Callable[..., DictConfig]

GROUPS = {
    "model": {"unet_tiny", "unet_fast", "unet_small", "unet_base", "unet_large", "dit_tiny", "dit_small", "dit_base"},
    "diffusion": {"linear", "cosine", "quadratic", "sigmoid"},
    "conditioning": {"none", "class"},
    "data": {"digits", "image_folder", "emoji", "mnist", "cifar10", "fashion_mnist"},
    "optimizer": {"adam", "adamw"},
    "scheduler": {"none", "cosine", "step", "plateau", "warmup_cosine"},
    "ema": {"on", "off"},
    "sampler": {"ddpm", "ddim"},
    "guidance": {"plain", "interval", "rescale"},
    "callbacks": {"default", "quiet"},
    "logger": {"none", "wandb", "tensorboard", "all"},
    "performance": {"default", "fast", "exact"},
    "evaluation": {"on", "off"},
    "experiment": {"ddpm_cifar10", "ddpm_small_images", "digits", "emoji", "fast_debug", "v2_default"},
}
CHOICES = [(group, name) for group, names in GROUPS.items() for name in sorted(names)]
FILES = sorted(CONF.rglob("*.yaml"))
CHOICE_FILES = [path for path in FILES if path.parent.name not in (CONF.name, "standalone")]


def plain(composed: DictConfig) -> dict[str, Any]:
    tree = OmegaConf.to_container(composed)
    assert isinstance(tree, dict)
    return tree  # type: ignore[return-value]


def only_known(tree: dict[str, Any], pattern: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a tree with the keys of another."""
    return {
        key: only_known(tree[key], value) if isinstance(value, dict) else tree[key] for key, value in pattern.items()
    }


@pytest.mark.parametrize("group", GROUPS)
def test_each_file_is_a_tested_choice(group: str) -> None:
    assert GROUPS[group] <= {path.stem for path in (CONF / group).glob("*.yaml")}


@pytest.mark.parametrize(("group", "name"), sorted((path.parent.name, path.stem) for path in CHOICE_FILES))
def test_each_choice_composes_and_is_valid(composed: Composed, group: str, name: str, tmp_path: Path) -> None:
    needs_folder = name in ("image_folder", "v2_default", "ddpm_small_images")
    folder = ["data.paths.train=" + str(tmp_path)] if needs_folder else []
    validation = ["training.validation.enabled=true"] if name == "plateau" else []
    config = compose_train_config(composed("train", f"{group}={name}", *folder, *validation))
    assert isinstance(config, TrainConfig)


@pytest.mark.parametrize("data", sorted(GROUPS["data"]))
@pytest.mark.parametrize("model", sorted(GROUPS["model"]))
def test_each_model_accepts_each_data_group(composed: Composed, model: str, data: str, tmp_path: Path) -> None:
    folder = ["data.paths.train=" + str(tmp_path)] if data == "image_folder" else []
    config = compose_train_config(composed("train", f"data={data}", f"model={model}", *folder))
    assert config.data.type == data
    assert config.experiment == data


def test_the_default_command_trains_on_digits(composed: Composed) -> None:
    tree = plain(composed("train"))
    assert tree == plain(composed("train", "experiment=digits"))
    config = compose_train_config(composed("train"))
    architecture, conditioning = config.model.architecture, config.model.conditioning
    assert (config.experiment, config.data.type, config.compute.seed) == ("digits", "digits", 0)
    assert (architecture.image_size, architecture.in_channels, conditioning.num_classes) == (8, 1, "auto")
    assert (config.logger.backends, config.logger.mode) == (("wandb",), "offline")


def test_v2_default_is_the_default_tree(composed: Composed) -> None:
    default = get_default_config()
    tree = OmegaConf.to_container(composed("train", "experiment=v2_default"), resolve=True)
    assert only_known(tree, default) == default  # type: ignore[arg-type]


def test_a_run_can_be_named(composed: Composed) -> None:
    assert compose_train_config(composed("train", "name=mine")).experiment == "mine"
    assert compose_train_config(composed("train", "data=emoji", "model=unet_small")).experiment == "emoji"


def test_the_printed_tree_is_a_valid_v2_tree(composed: Composed) -> None:
    tree = OmegaConf.to_container(composed("train", "output.base_dir=mine"), resolve=True)
    assert validate_config(tree) is None  # type: ignore[arg-type,func-returns-value]


def test_data_groups_set_size_and_channels(composed: Composed) -> None:
    config = compose_train_config(composed("train", "data=emoji", "model=unet_small"))
    architecture = config.model.architecture
    assert (architecture.image_size, architecture.in_channels) == (32, 3)
    assert config.model.conditioning.num_classes == "auto"
    assert config.model.architecture.model_channels == 32


def test_image_folders_are_unconditional_by_default(composed: Composed, tmp_path: Path) -> None:
    own = ["data=image_folder", f"data.paths.train={tmp_path}"]
    assert compose_train_config(composed("train", *own)).model.conditioning.classes is None
    counted = compose_train_config(composed("train", *own, "conditioning=class"))
    assert counted.model.conditioning.num_classes == "auto"
    with pytest.raises(ConfigError, match=r"model\.conditioning\.num_classes = null: required"):
        compose_train_config(composed("train", *own, "conditioning=class", "model.conditioning.num_classes=null"))
    composed_tree = composed("train", *own, "conditioning=class", "model.conditioning.num_classes=3")
    assert compose_train_config(composed_tree).model.conditioning.classes == 3


@pytest.mark.parametrize("data", DATA_SETS)
@pytest.mark.parametrize("classes", [3, 10, "auto"])
def test_an_unused_number_of_classes_is_refused(composed: Composed, tmp_path: Path, data: str, classes: object) -> None:
    given = [f"data={data}", "conditioning=none"]
    given += [f"data.paths.train={tmp_path}"] if data == "image_folder" else []
    compose_train_config(composed("train", *given))
    with pytest.raises(ConfigError, match=r"num_classes = .*: has no effect .*conditioning=class"):
        compose_train_config(composed("train", *given, f"model.conditioning.num_classes={classes}"))


def test_an_image_folder_without_its_data_group_is_refused(composed: Composed, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"must be null with data\.type digits.*image_folder"):
        compose_train_config(composed("train", f"data.paths.train={tmp_path}"))


def test_the_command_line_takes_precedence(composed: Composed) -> None:
    config = compose_train_config(
        composed("train", "experiment=emoji", "model=unet_tiny", "training.epochs=3", "output.base_dir=mine")
    )
    assert config.model.architecture.channel_multipliers == (1, 2)
    assert (config.training.epochs, config.output.base_dir) == (3, Path("mine"))


def test_short_names_fill_the_tree(composed: Composed, tmp_path: Path) -> None:
    config = compose_generate_config(
        composed(
            "sample",
            f"ckpt={tmp_path}",
            "num_samples=5",
            "guidance_scale=1.5",
            "labels=[3,seven]",
            "seed=0",
            "device=cpu",
            "use_ema=false",
            "ema_decay=null",
            "sampler=ddpm",
            "sampler.steps=20",
        )
    )
    sampling = config.generation.sampling
    assert config.generation.checkpoint == tmp_path
    assert (sampling.num_samples, sampling.guidance_scale, sampling.use_ema) == (5, 1.5, False)
    assert sampling.labels == (3, "seven")
    assert (config.compute.seed, config.compute.device) == (0, "cpu")
    assert (config.sampler.type, config.sampler.options["steps"]) == ("ddpm", 20)
    assert config.model is None


def test_several_scales_and_one_ema_have_short_names(composed: Composed, tmp_path: Path) -> None:
    arguments = ("guidance_scale=[1,2,4]", "ema_decay=0.99", "guidance=interval", "guidance.rescale=0.2")
    config = compose_generate_config(composed("sample", f"ckpt={tmp_path}", *arguments))
    sampling = config.generation.sampling
    assert (sampling.scales, sampling.ema_decay, config.guidance.rescale) == ((1, 2, 4), 0.99, 0.2)
    assert config.guidance.interval is not None
    assert compose_generate_config(composed("sample", f"ckpt={tmp_path}")).generation.sampling.scales == (2.0,)


def test_a_model_can_be_chosen_for_a_plain_state_dict(composed: Composed, tmp_path: Path) -> None:
    groups = ["model=unet_tiny", "diffusion=linear", "conditioning=class", "model.conditioning.num_classes=10"]
    config = compose_generate_config(composed("sample", f"ckpt={tmp_path}", *groups))
    assert config.model is not None
    assert config.model.diffusion.beta_schedule == "linear"


def test_a_partial_model_has_defaults(composed: Composed, tmp_path: Path) -> None:
    config = compose_generate_config(composed("sample", f"ckpt={tmp_path}", "model=unet_tiny"))
    assert config.model is not None
    assert config.model.diffusion.model_dump().items() >= get_default_config()["model"]["diffusion"].items()


def test_a_broken_reference_is_reported_with_other_faults(composed: Composed) -> None:
    overrides = ["data.crop=${no.where}", "+training.a=1", "data.on_corrupt=???", "training.optimizer.betas=[0.9,${x}]"]
    with pytest.raises(ConfigError) as caught:
        compose_train_config(composed("train", *overrides))
    lines = str(caught.value).splitlines()
    assert lines[0] == "4 settings are wrong:"
    assert any(line.startswith('  data.crop = "${no.where}": cannot be resolved') for line in lines)
    assert "  data.on_corrupt: required, but missing" in lines
    assert any(line.startswith('  training.optimizer.betas[1] = "${x}": cannot be resolved') for line in lines)


def test_references_are_resolved(composed: Composed) -> None:
    config = compose_train_config(composed("train", "training.visualization.num_samples=${training.epochs}"))
    assert config.training.visualization.num_samples == config.training.epochs


def test_run_folder_is_named_after_experiment_and_time() -> None:
    folder = Path(run_folder("mine"))
    assert folder.parent == Path("outputs/mine")
    assert datetime.strptime(folder.name.rpartition("-")[0], "%Y-%m-%d_%H-%M-%S")


def test_a_generated_name_is_the_same_throughout_a_command(composed: Composed) -> None:
    tree = composed("train", "experiment=fast_debug")
    assert tree.output.base_dir == tree.output.base_dir
    assert tree.output.base_dir != composed("train", "experiment=fast_debug").output.base_dir
    tree = composed("sample", "ckpt=.")
    assert tree.output.subdirs.generated == tree.output.subdirs.generated


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ([], "job"),
        (["optimizer=adam", "diffusion=linear"], "diffusion-linear_optimizer-adam"),
        (["training.optimizer.learning_rate=1e-3"], "learning_rate-1e-3"),
        (["+a.b=[1, 2]", "++c='x/y z'", "~d"], "b-1-2-3a316d6d_c-x-y-z-b4713f49_d"),
        (["seed=1", "training.epochs=3", "compute.device=cpu"], "epochs-3"),
    ],
)
def test_job_folder_is_readable_and_safe(overrides: list[str], name: str) -> None:
    assert job_folder(overrides, constant=["seed", "compute.device"]) == name


def test_the_job_folder_does_not_depend_on_the_order() -> None:
    assert job_folder(["a.type=1", "b.type=2"]) == job_folder(["b.type=2", "a.type=1"])


@pytest.mark.parametrize(("one", "other"), [("name=a/b", "name=a-b"), ("rate=1e+30", "rate=1e-30"), ("x=", "x=/")])
def test_jobs_of_different_values_never_share_a_folder(one: str, other: str) -> None:
    assert job_folder([one]) != job_folder([other])


def test_a_truncated_job_folder_stays_unique() -> None:
    many = [f"key{i}=value{i}" for i in range(100)]
    one, other = job_folder(many), job_folder([*many[:-1], "key99=other"])
    assert len(one) <= 100
    assert one != other


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CONF)))
def test_each_value_and_each_file_has_a_comment(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert any(line.startswith("# ") and not line.startswith(("# @package", "# yaml-")) for line in lines[:3])
    text = 10**9  # indentation of the block of text we are in: it needs no comments
    for line in lines:
        depth = len(line) - len(line.lstrip())
        if line.strip() and depth <= text:
            text = 10**9
        if line.rstrip().endswith("|"):
            text = depth
        value = re.match(r"\s*[\w]+: *[^\s#|]", line)
        if value and depth <= text:
            assert re.search(r"\s# \S", line), f"{path.name}: {line}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CONF)))
def test_each_file_is_plain_yaml(path: Path) -> None:
    assert isinstance(yaml.safe_load(path.read_text()), dict)


class TestStepsOfAShortProcess:
    """Default steps of a sampler's file are limited by the process; explicit ones are used, or refused."""

    SHORT = "model.diffusion.num_timesteps=20"

    @staticmethod
    def steps(composed: Composed, *overrides: str) -> object:
        tree = composed("train", *overrides)
        config = compose_train_config(tree, lambda: composed_key_locations("train", overrides))
        return config.sampler.options["steps"]

    @pytest.mark.parametrize(
        ("overrides", "steps"),
        [
            ((), 50),
            ((SHORT,), 20),
            ((SHORT, "sampler=best"), 20),
            ((SHORT, "sampler=fast"), 10),
            ((SHORT, "sampler=ddpm"), None),
            ((SHORT, "sampler=best", "sampler.steps=7"), 7),
        ],
    )
    def test_in_training(self, composed: Composed, overrides: tuple[str, ...], steps: int | None) -> None:
        assert self.steps(composed, *overrides) == steps

    def test_typed(self, composed: Composed) -> None:
        with pytest.raises(ConfigError, match=r"sampler\.steps = 21: must be at most .*20: set .* \[command line\]"):
            self.steps(composed, self.SHORT, "sampler.steps=21")

    def test_of_a_recipe(self, composed: Composed) -> None:
        with pytest.raises(
            ConfigError, match=r"= 4: must be at most .*3: set sampler\.steps=3 .* \[conf/experiment/fast_debug"
        ):
            self.steps(composed, "experiment=fast_debug", "model.diffusion.num_timesteps=3")

    @pytest.mark.parametrize(("overrides", "most"), [((), 20), (("sampler.steps=40",), None)])
    def test_in_generation(
        self, composed: Composed, tmp_path: Path, overrides: tuple[str, ...], most: int | None
    ) -> None:
        words = (f"ckpt={tmp_path}", *overrides)
        config = compose_generate_config(composed("sample", *words), lambda: composed_key_locations("sample", words))
        steps = config.sampler.for_process(20).options["steps"]
        assert steps == (most or 40)
        assert config.sampler.for_process(None) == config.sampler, "a continuous process has no steps of its own"


class TestNetworkOfOnesOwn:
    """Keys of the group's file that a custom network does not take are dropped; those that were typed are refused."""

    TYPE = f"model.architecture.type={HERE}.NarrowNet"

    def config(self, composed: Composed, *overrides: str) -> TrainConfig:
        everything = [self.TYPE, *overrides]
        return compose_train_config(composed("train", *everything), lambda: composed_key_locations("train", everything))

    def test_keys_of_the_file_are_dropped(self, composed: Composed) -> None:
        config = self.config(
            composed, "diffusion=edm", f"model.diffusion.type={HERE}.Process", "+model.diffusion.power=2.0"
        )
        assert config.model.architecture.options == {"model_channels": 32}  # of unet_tiny, which the class takes
        assert config.model.diffusion.options == {"power": 2.0}

    def test_keys_of_another_file_of_the_same_network_are_dropped(self, composed: Composed) -> None:
        assert self.config(
            composed, "model=dit_tiny", "+model.architecture.model_channels=4"
        ).model.architecture.options == {"model_channels": 4}

    def test_a_typed_key_is_refused(self, composed: Composed) -> None:
        with pytest.raises(ConfigError) as caught:
            self.config(composed, "model.architecture.patch_size=1", "+model.architecture.depht=3")
        assert [str(fault).replace(f"{HERE}.", "") for fault in caught.value.faults] == [
            "model.architecture.depht = 3: NarrowNet takes no such argument [command line]",
            "model.architecture.patch_size = 1: NarrowNet takes no such argument; leave it out (command line: "
            "'~model.architecture.patch_size') [command line]",
        ]
