from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import pytest
from omegaconf import OmegaConf

from diffusion_lab.config import (
    GenerateConfig,
    TrainConfig,
    parse_config,
    validate_config,
    validate_config_consistency,
)
from diffusion_lab.config.model_section import ModelSettings
from diffusion_lab.config.validate import parse_as, parse_section
from diffusion_lab.faults import ConfigError
from diffusion_lab.samplers import DDIMSampler, DDPMSampler
from diffusion_lab.training.fit import train
from tests.config.conftest import Change
from tests.typed_settings.own_classes import HERE


def dit(**options: object) -> dict[str, object]:
    sizes = {"image_size": 40, "in_channels": 3, "hidden_size": 64, "depth": 2, "num_heads": 2}
    return {"model.architecture": {"type": "dit", **sizes, **options}}


CONTRADICTIONS: list[tuple[dict[str, object], str]] = [
    (
        {"model.architecture.use_attention": [True]},
        "model.architecture.use_attention = [true]: must have one entry per stage: 3, "
        "as in model.architecture.channel_multipliers",
    ),
    (
        {"model.architecture.image_size": 42},
        "model.architecture.image_size = 42: must be divisible by 4: 3 stages halve the image 2 times",
    ),
    (
        {"model.architecture.image_size": 44, "model.architecture.patch_size": 2},
        "image_size = 44: must be divisible by 8: 3 stages halve the image 2 times, after patches of 2",
    ),
    (
        dit(channel_multipliers=[1, 2, 4]),
        "model.architecture.channel_multipliers = [1, 2, 4]: belongs to type unet, not to dit; leave it out "
        "(command line: model=dit_tiny or another dit)",
    ),
    (dit(use_attention=[True]), "use_attention = [true]: belongs to type unet, not to dit"),
    (
        dit(hidden_size=18),
        "model.architecture.hidden_size = 18: must be divisible by 4: a sine and a cosine each for row and column",
    ),
    (
        dit(num_heads=3),
        "model.architecture.num_heads = 3: must divide model.architecture.hidden_size, 64",
    ),
    (
        dit(image_size=42, patch_size=4),
        "model.architecture.image_size = 42: must be divisible by 4: patches of 4",
    ),
    (
        {"model.diffusion.beta_start": 0.02},
        "model.diffusion.beta_start = 0.02: must be less than model.diffusion.beta_end, 0.02",
    ),
    ({"model.conditioning.type": "class"}, "model.conditioning.num_classes = null: required with"),
    ({"training.validation.metric": "los"}, "must be a metric that the run logs: loss, loss_at_low_noise"),
    (
        {"training.checkpointing.save_best_only": True, "training.validation.enabled": False},
        "training.checkpointing.save_best_only = true: needs training.validation.enabled",
    ),
    (
        {"training.scheduler": {"type": "plateau"}, "training.validation.enabled": False},
        'training.scheduler.type = "plateau": monitors the validation metric, which training.validation.enabled',
    ),
    (
        {"training.scheduler.type": "step"},
        'training.scheduler.T_max = "auto": belongs to type cosine, not to step; leave it out '
        "(command line: scheduler=step)",
    ),
    (
        {"training.scheduler": {"type": "cosine", "T_max": 3, "eta_min": 0, "patience": 2}},
        "training.scheduler.patience = 2: belongs to type plateau, not to cosine",
    ),
    (
        {"training.scheduler": {"type": "plateau", "eta_min": 0.0}},
        "training.scheduler.eta_min = 0.0: belongs to type cosine or warmup_cosine, not to plateau",
    ),
    ({"training.scheduler.gamma": 0.5}, "training.scheduler.gamma = 0.5: belongs to type step, not to null"),
    ({"training.scheduler": {"type": "cosine", "T_max": "auto"}}, "training.scheduler.eta_min: required with type"),
    ({"sampler": {"type": "ddim", "steps": 1001}}, "sampler.steps = 1001: must be at most"),
    (
        {"training.ema.further_decays": [0.5, 0.9999]},
        "training.ema.further_decays[1] = 0.9999: must differ from training.ema.decay and from the others",
    ),
    ({"training.ema.further_decays": [0.5, 0.5]}, "training.ema.further_decays[1] = 0.5: must differ from"),
    (
        {"generation.sampling.ema_decay": 0.9, "generation.sampling.use_ema": False},
        "generation.sampling.ema_decay = 0.9: needs generation.sampling.use_ema: it selects an EMA",
    ),
    (
        {"training.performance.use_amp": True, "training.performance.precision": 32},
        "training.performance.precision = 32: must be auto, bf16, fp16 or null with training.performance.use_amp",
    ),
    ({"data.paths.train": None}, "data.paths.train = null: required with data.type image_folder"),
    ({"data.type": "digits"}, "must be null with data.type digits, which has its own images"),
    ({"data.type": "mnist", "data.paths.train": None}, "data.paths.train = null: required with data.type mnist"),
    (
        {"data.type": "cifar10", "data.paths.val": "."},
        'data.paths.val = ".": must be null with data.type cifar10: validation images are split off',
    ),
    ({"training.resume.enabled": True}, "training.resume.checkpoint = null: with training.resume.enabled must be"),
    (
        {"training.resume.enabled": True, "training.resume.checkpoint": "no.ckpt"},
        'training.resume.checkpoint = "no.ckpt": with training.resume.enabled must be an existing',
    ),
]

TYPOS: list[tuple[dict[str, object], str]] = [
    (
        {"training.optimizer.learnin_rate": 1},
        "training.optimizer.learnin_rate = 1: unknown key (did you mean 'training.optimizer.learning_rate'?)",
    ),
    (
        {"training.learning_rate": 1},
        "training.learning_rate = 1: unknown key (did you mean 'training.optimizer.learning_rate'?)",
    ),
    ({"trainin": {}}, "trainin = {}: unknown key (did you mean 'training'?)"),
    ({"image_size": 8}, "image_size = 8: unknown key (did you mean 'model.architecture.image_size'?)"),
    ({"data.croop": "center"}, "data.croop = \"center\": unknown key (did you mean 'data.crop'?)"),
    ({"model.architecture.dropuot": 0}, "unknown key (did you mean 'model.architecture.dropout'?)"),
    ({"training.scheduler.T_mx": 3}, "unknown key (did you mean 'training.scheduler.T_max'?)"),
    ({"model.diffusion.beta_schedule": "cosin"}, "(did you mean 'cosine'?)"),
    ({"training.optimizer.type": "adamww"}, "(did you mean 'adamw'?)"),
    ({"sampler": {"type": "ddimm"}}, "(did you mean 'ddim'?)"),
    ({"sampler": {"type": "ddim", "etta": 0.5}}, "sampler.etta = 0.5: unknown key (did you mean 'sampler.eta'?)"),
]


def message(tree: dict[str, Any]) -> str:
    with pytest.raises(ValueError, match="wrong:") as caught:
        validate_config(tree)
    return str(caught.value)


@pytest.mark.parametrize(("values", "line"), CONTRADICTIONS)
def test_contradiction_is_found_by_both_functions(changed: Change, values: dict[str, object], line: str) -> None:
    text = message(changed(values))
    assert line in text
    with pytest.raises(ValueError, match="wrong:") as caught:
        validate_config_consistency(changed(values))
    assert str(caught.value) == text


@pytest.mark.parametrize(("values", "line"), TYPOS)
def test_typo_gets_a_suggestion(changed: Change, values: dict[str, object], line: str) -> None:
    assert line in message(changed(values))


def test_dit_has_only_its_own_faults(changed: Change) -> None:
    assert validate_config(changed(dit())) is None  # type: ignore[func-returns-value]
    (fault,) = message(changed(dit(num_heads=128))).splitlines()[1:]
    assert "must divide model.architecture.hidden_size" in fault


def test_keys_of_an_old_dit_are_translated(changed: Change) -> None:
    """Settings of earlier versions describe a transformer with the keys of the U-Net."""
    old = {"model_channels": 48, "channel_multipliers": [2], "use_attention": [True], "dropout": 0.1}
    about = {"type": "DiT", "image_size": 40, "in_channels": 3}
    for options, depth, heads in (({}, 2, 3), ({"num_res_blocks": 6, "head_channels": 36}, 6, 2)):
        config = parse_config(changed({"model.architecture": {**about, **old, **options}}))
        assert config.model is not None
        new = {"hidden_size": 96, "depth": depth, "num_heads": heads, "dropout": 0.1}
        assert (
            config.model.architecture.model_dump() == {**about, "type": "dit", "patch_size": 1, "mlp_ratio": 4.0} | new
        )


@pytest.mark.parametrize("wrong", [{"head_channels": 0}, {"model_channels": 2**40}, {"depth": 3}, {"use_attention": 0}])
def test_keys_of_an_old_dit_that_do_not_fit_are_faults(changed: Change, wrong: dict[str, object]) -> None:
    old = {"model_channels": 48, "channel_multipliers": [2], "use_attention": [True], **wrong}
    text = message(changed({"model.architecture": {"type": "dit", "image_size": 40, "in_channels": 3, **old}}))
    assert "model.architecture." in text


def test_many_faults_at_once_each_on_its_line(changed: Change) -> None:
    faults = {
        "compute.device": "gpu",
        "compute.seed": -1,
        "data.loading.batch_size": 0,
        "data.paths.train": 3,
        "experiment": None,
        "model.architecture.use_attention": [True],
        "model.diffusion.beta_start": 0.5,
        "output.subdirs.logs": "/tmp",
        "training.ema.decay": 2,
        "training.optimizer.learnin_rate": 1,
        "training.scheduler.type": "step",
    }
    lines = message(changed(faults)).splitlines()
    keys = [line.strip().split(" ")[0] for line in lines[1:]]
    assert lines[0] == "12 settings are wrong:"
    reported = set(keys)
    assert reported == {*faults} - {"training.scheduler.type"} | {
        "training.scheduler.T_max",
        "training.scheduler.eta_min",
    }


def test_a_rule_is_skipped_if_a_value_it_reads_has_a_fault(changed: Change) -> None:
    text = message(changed({"model.architecture.channel_multipliers": "1,2", "model.architecture.image_size": 41}))
    assert text.count("\n") == 1
    assert "model.architecture.channel_multipliers" in text


def test_consistency_skips_faults_of_single_keys(changed: Change) -> None:
    tree = changed({"training.epochs": 0})
    assert "training.epochs" in message(tree)
    validate_config_consistency(tree)


def test_missing_section_is_one_fault(default: dict[str, Any]) -> None:
    del default["data"]
    assert message(default).splitlines()[1:] == ["  data: required, but missing"]


def test_a_sampler_that_is_not_a_section(changed: Change) -> None:
    text = message(changed({"sampler": "ddim"}))
    assert text.splitlines()[1:] == ['  sampler = "ddim": must be a section of keys']


def test_a_section_that_is_not_a_section(changed: Change) -> None:
    assert "data.loading = 3: must be a section of keys" in message(changed({"data.loading": 3}))


def test_a_tree_that_is_not_a_mapping() -> None:
    with pytest.raises(TypeError, match="mapping of keys to values, got list"):
        validate_config([])  # type: ignore[arg-type]


def test_validation_does_not_modify_the_tree(default: dict[str, Any]) -> None:
    before = repr(default)
    parse_config(default)
    assert repr(default) == before


def test_mode_decides_the_type(default: dict[str, Any], tmp_path: Path) -> None:
    assert isinstance(parse_config(default), TrainConfig)
    default |= {"mode": "generate"}
    assert "generation.checkpoint = null: must be an existing checkpoint" in message(default)
    default["generation"]["checkpoint"] = str(tmp_path)
    default["data"]["paths"]["train"] = "no/such"  # not read when generating
    assert isinstance(parse_config(default), GenerateConfig)


def test_generating_without_num_classes_or_with_too_few(changed: Change) -> None:
    for classes in (None, 0, -3):
        tree = changed({"model.conditioning": {"type": "class", "num_classes": classes, "class_dropout_prob": 0.1}})
        with pytest.raises(ConfigError, match=r"num_classes = (null|0|-3): required .* at least 1, or auto to count"):
            validate_config_consistency(tree)


class TestTMax:
    """``training.scheduler.T_max: auto`` in a validated tree."""

    @pytest.mark.parametrize("kind", [None, "cosine"])
    def test_becomes_the_number_of_epochs_in_place(self, changed: Change, kind: str | None) -> None:
        tree = changed({"training.epochs": 7, "training.scheduler.type": kind})
        scheduler = tree["training"]["scheduler"]
        validate_config_consistency(tree)
        assert scheduler["T_max"] == 7
        assert tree == changed({"training.epochs": 7, "training.scheduler.type": kind, "training.scheduler.T_max": 7})
        validate_config(tree)

    def test_stays_if_the_tree_is_refused_or_the_epochs_are_invalid(self, changed: Change) -> None:
        contradiction = changed({"model.diffusion.beta_start": 0.5})
        with pytest.raises(ConfigError):
            validate_config_consistency(contradiction)
        unsound = changed({"training.epochs": "many"})
        validate_config_consistency(unsound)
        assert [tree["training"]["scheduler"]["T_max"] for tree in (contradiction, unsound)] == ["auto", "auto"]

    def test_of_a_tree_of_omegaconf(self, default: dict[str, Any]) -> None:
        tree = OmegaConf.create(default)
        OmegaConf.set_struct(tree, True)
        validate_config_consistency(tree)
        assert tree.training.scheduler.T_max == 200

    def test_of_a_tree_that_cannot_be_changed_is_an_error(self, default: dict[str, Any]) -> None:
        read_only = OmegaConf.create(default)
        OmegaConf.set_readonly(read_only, True)
        frozen = default | {"training": default["training"] | {"scheduler": None}}
        frozen["training"]["scheduler"] = MappingProxyType(default["training"]["scheduler"])
        for tree in (read_only, frozen):
            with pytest.raises(
                ConfigError, match=r'T_max = "auto": is replaced by training.epochs, 200, .* pass a mutable copy'
            ):
                validate_config_consistency(tree)
            validate_config(tree)


def test_image_folders_are_checked_when_a_run_starts(changed: Change, tmp_path: Path) -> None:
    for key in ("data.paths.train", "data.paths.val"):
        tree = changed({key: "no/such", "output.base_dir": str(tmp_path / "run")})
        validate_config(tree)
        with pytest.raises(ConfigError, match=rf'{key} = "no/such": must be an existing folder of images'):
            parse_as(TrainConfig, tree, starts=True)
        with pytest.raises(ConfigError, match=rf'{key} = "no/such": must be an existing folder of images'):
            train(cast("TrainConfig", parse_config(tree)))
    assert not (tmp_path / "run").exists()


def test_generating_needs_no_section_of_training(default: dict[str, Any], tmp_path: Path) -> None:
    for section in ("model", "data", "training"):
        del default[section]
    default |= {"mode": "generate"}
    default["generation"]["checkpoint"] = str(tmp_path)
    assert parse_config(default).model is None


def test_generating_checks_the_given_sections(default: dict[str, Any]) -> None:
    default |= {"mode": "generate"}
    default["training"]["epochs"] = 0
    default["model"]["architecture"]["use_attention"] = [True]
    text = message(default)
    assert "training.epochs = 0" in text
    assert "model.architecture.use_attention" in text


def test_options_of_the_schedule(changed: Change) -> None:
    def options(scheduler: dict[str, object]) -> dict[str, Any]:
        config = parse_config(changed({"training.scheduler": scheduler, "training.epochs": 7}))
        assert config.training is not None
        return config.training.scheduler_options()

    assert options({"type": None, "T_max": "auto", "eta_min": 0.0}) == {}
    assert options({"type": "cosine", "T_max": "auto", "eta_min": 0.0}) == {"T_max": 7, "eta_min": 0.0}
    assert options({"type": "cosine", "T_max": 3, "eta_min": 0.0}) == {"T_max": 3, "eta_min": 0.0}
    assert options({"type": "step"}) == {"step_size": 30}
    assert options({"type": "step", "step_size": 2, "gamma": 0.5}) == {"step_size": 2, "gamma": 0.5}
    assert options({"type": "plateau", "patience": 0}) == {"patience": 0, "mode": "min"}
    assert options({"type": "plateau", "mode": "max"}) == {"mode": "max"}
    assert options({"type": "warmup_cosine", "warmup_steps": 9}) == {"warmup_steps": 9}
    assert options({"type": f"{HERE}.TakesAnything", "power": 2}) == {"power": 2}


def test_options_of_the_optimizer(changed: Change) -> None:
    def options(values: dict[str, object]) -> dict[str, Any]:
        config = parse_config(changed({f"training.optimizer.{name}": value for name, value in values.items()}))
        assert config.training is not None
        return config.training.optimizer.options

    assert options({}) == {}
    assert options({"eps": 1e-6, "amsgrad": False}) == {"eps": 1e-6, "amsgrad": False}
    assert options({"type": f"{HERE}.TakesAnything", "sign": True}) == {"sign": True}


def test_sampler_is_built_from_its_options(changed: Change) -> None:
    assert parse_config(changed({})).sampler.build() == DDIMSampler(steps=50)
    config = parse_config(changed({"sampler": {"type": "ddpm", "steps": 20, "variance": "large"}}))
    assert config.sampler.build() == DDPMSampler(steps=20, variance="large")


def test_the_default_sampler_takes_at_most_the_timesteps(changed: Change) -> None:
    config = parse_config(changed({"model.diffusion.num_timesteps": 10}))
    assert config.sampler.build() == DDIMSampler(steps=10)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"steps": 0}, "sampler.steps = 0: must be at least 1"),
        ({"steps": True}, "sampler.steps = true: must be an integer"),
        ({"eta": 1.5}, "sampler.eta = 1.5: must be at most 1"),
        ({"spacing": "trail"}, "must be 'trailing', 'leading', 'linspace', 'karras' or 'log_snr' or a list"),
        (
            {"variance": "small"},
            'sampler.variance = "small": belongs to type ddpm, not to ddim; leave it out (command line: sampler=ddim)',
        ),
        ({"varyance": "small"}, 'sampler.varyance = "small": unknown key'),
    ],
)
def test_options_of_the_sampler_are_checked(changed: Change, options: dict[str, object], line: str) -> None:
    assert line in message(changed({"sampler": {"type": "ddim", **options}}))


def test_a_single_section(default: dict[str, Any]) -> None:
    model = parse_section(ModelSettings, default["model"], "model")
    assert model.architecture.image_size == 40
    default["model"]["architecture"] |= {"image_size": 41, "in_chanels": 3}
    default["model"]["diffusion"]["beta_end"] = 1
    with pytest.raises(ValueError, match="3 settings are wrong") as caught:
        parse_section(ModelSettings, default["model"], "model")
    for key in ("model.architecture.image_size", "model.architecture.in_chanels", "model.diffusion.beta_end"):
        assert key in str(caught.value)


@pytest.mark.parametrize("key", ["compute.threads", "data.loading.num_workers"])
def test_more_threads_or_processes_than_a_system_starts_are_refused(changed: Change, key: str) -> None:
    with pytest.raises(ConfigError, match=f"{key} = 100000: must be .*at most 1024"):
        validate_config(changed({key: 100_000}))
