"""Each row of the V2 tables: its default and its bounds are accepted, values beyond them reported by name."""

from __future__ import annotations

import json
import math
import pickle
from typing import Any

import pytest

from diffusion_lab.config import ConfigError, TrainConfig, get_default_config, parse_config, validate_config
from diffusion_lab.config.scheduler_section import SCHEDULES, SchedulerSettings
from diffusion_lab.config.schema import CHOICES
from diffusion_lab.typed_settings.choice import Options
from diffusion_lab.typed_settings.settings_reader import known_keys
from tests.config.conftest import Change, drop
from tests.typed_settings.own_classes import HERE

ROWS: list[tuple[str, list[object], list[object]]] = [
    ("experiment", ["mine"], [None, "", 3]),
    ("mode", [], ["training", None, True]),
    (
        "compute.device",
        ["auto", "cpu", "cuda", "mps", "cpu:0", "cuda:0", "cuda:1", "cuda:15", "mps:0"],
        [
            "gpu",
            None,
            1,
            "cuda:",
            "cuda:-1",
            "cuda:01",
            "cuda:x",
            "cuda:1 ",
            "cpu:1",
            "mps:1",
            "auto:0",
            ":1",
        ],
    ),
    ("compute.seed", [0, 7, None], [-1, 1.5, "1", True]),
    ("compute.deterministic", [True, False], [0, "no"]),
    ("compute.threads", ["auto", 1, 64], [0, -1, 1.5, "all", None]),
    ("model.architecture.image_size", [4, 64], [0, -8, 8.0, "40", True]),
    ("model.architecture.in_channels", [1, 3, 4], [2, 0, True, "3"]),
    ("model.architecture.model_channels", [1, 12, 32, 40], [0, 33, 36, 1.0]),
    ("model.architecture.use_attention", [[True, True, True]], [[0, 1, 1], "yes", None]),
    ("model.architecture.type", ["unet", f"{HERE}.TakesAnything"], ["unett", "my lab.Net", ".x", None]),
    ("model.architecture.num_res_blocks", [1], [0]),
    ("model.architecture.dropout", [0, 0.5], [1, -0.1]),
    ("model.architecture.head_channels", [1, 64], [0]),
    ("model.architecture.patch_size", [1, 2], [0, 1.5]),
    ("model.diffusion.num_timesteps", [1, 4000], [0, 10.0, True]),
    ("model.diffusion.beta_schedule", ["linear", "cosine", "quadratic", "sigmoid"], ["cosin", None]),
    ("model.diffusion.beta_start", [0.001], [0, -0.1, 1, "1e-4", math.nan]),
    ("model.diffusion.beta_end", [0.9], [1, 1.5, math.inf]),
    ("name", [None, "mine"], [3]),
    ("preview", [True], [1, "yes", None]),
    ("tune.learning_rate", [True], [1, "yes", None]),
    ("tune.batch_size", [True], [1, "yes", None]),
    ("model.diffusion.type", ["discrete", "flow", f"{HERE}.TakesAnything"], ["ddpm", None]),
    ("model.diffusion.zero_terminal_snr", [False], [0, None]),
    ("model.diffusion.noise_shift", [1, 1.0], [0, -1, "1"]),
    ("model.diffusion.sigma_min", [0.002], [0, -0.1, None]),
    ("model.diffusion.sigma_max", [80], [0, "80"]),
    ("model.diffusion.prediction", ["epsilon", "x0", "v", "flow", "edm"], ["eps", None]),
    ("model.diffusion.sigma_data", ["auto", 0.3, 1], [0, -1, "measured", None]),
    ("model.conditioning.type", [None], ["classes", True]),
    ("model.conditioning.num_classes", [None], [0, -1, 2.0, "10"]),
    ("model.conditioning.class_dropout_prob", [0, 0.5, 1], [-0.1, 1.1]),
    ("data.paths.val", [None, "no/such/folder"], [3, ""]),
    ("data.loading.batch_size", [1, 4096], [0, -1, 1.5]),
    ("data.loading.num_workers", [0, 16], [-1, True]),
    ("data.loading.worker_timeout", [0.5, 3600], [0, -1, None, "1"]),
    ("data.loading.pin_memory", [True, False], [1, "yes", None]),
    ("data.loading.shuffle_train", [True, False], [0]),
    ("data.loading.drop_last", [True, False], ["true"]),
    ("data.augmentation.horizontal_flip", [True, False], [1]),
    ("data.augmentation.rotation_degrees", [0, 15, 180.0], [-1, 181]),
    ("data.augmentation.color_jitter.enabled", [True, False], [0.5]),
    ("data.augmentation.color_jitter.strength", [0, 1], [-0.1, 1.01]),
    ("data.type", [f"{HERE}.Images"], ["folder", None]),
    ("data.on_corrupt", ["skip", "error"], ["ignore"]),
    ("data.max_pixels", [1, 10**9], [0, -1, 1.5, None]),
    ("data.background", ["black", "#10ff00"], ["blackish", "#xyz"]),
    ("data.crop", ["center", "random"], ["middle"]),
    ("data.cache", ["disk", "memory", "none"], ["ram", None, True]),
    ("data.cache_dir", [None, "caches"], ["", 3]),
    ("output.base_dir", ["runs/a"], [None, "", 3]),
    ("output.subdirs.logs", ["a/b"], ["", "/tmp", "../up", ".", None]),
    ("output.subdirs.checkpoints", ["ckpt"], ["/tmp"]),
    ("output.subdirs.samples", ["pictures"], ["a/../.."]),
    ("output.subdirs.generated", ["made"], [None]),
    ("output.overwrite", [True, False], ["no"]),
    ("training.epochs", [1], [0, 1.5, None]),
    ("training.accumulate_batches", [1, 8], [0]),
    ("training.log_interval", [1], [0]),
    ("training.max_steps", [None, 1], [0, 1.5, "1000"]),
    ("training.max_time", [None, "00:00:30:00", "120:00:00:00"], ["30:00", "00:00:00:00", 108000, "1h"]),
    ("training.overfit_batches", [None, 1], [0, 0.5]),
    ("training.profiler", [None, "simple", "advanced", "pytorch"], ["fast", True, 3]),
    (
        "training.callbacks",
        [[], ["lightning.pytorch.Callback"], [{"_target_": "lightning.pytorch.callbacks.Timer", "duration": None}]],
        ["my_lab.Score", ["Score"], [{"target": "my_lab.Score"}], [{"_target_": "Score"}], None],
    ),
    ("training.loss.penalty.type", ["mse", "l1", f"{HERE}.TakesAnything"], ["l2", None]),
    ("training.loss.weighting.type", ["uniform", "min_snr"], ["snr", None]),
    ("training.loss.times.type", ["auto", "logit_normal"], ["lognormal", None]),
    ("training.loss.stratified", [True, False], [1]),
    ("training.optimizer.type", ["adam", "adamw", f"{HERE}.Lion"], ["sgdd", None, 3]),
    ("training.optimizer.learning_rate", [1e-6, 1], [0, -1e-4, "1e-4", None]),
    ("training.optimizer.weight_decay", [0, 0.1], [-0.1]),
    ("training.optimizer.betas", [[0, 0], [0.5, 0.99]], [[0.9, 1], [-0.1, 0.9], [0.9], [0.9, 0.9, 0.9], 0.9]),
    ("training.optimizer.gradient_clip_norm", [None, 1], [0, -1]),
    ("training.optimizer.eps", [None, 1e-6], [0, -1e-8, "1e-8"]),
    ("training.optimizer.amsgrad", [None, True, False], [1]),
    ("training.optimizer.fused", [None, True, False], ["yes"]),
    ("training.optimizer.foreach", [None, True, False, "none"], [0, "yes"]),
    ("training.optimizer.maximize", [None, False], [1]),
    ("training.optimizer.capturable", [None, True, False], [1]),
    ("training.optimizer.differentiable", [None, False], [True, 1]),
    ("training.optimizer.decoupled_weight_decay", [None, True, False], [1]),
    ("training.scheduler.type", [None, "cosine", f"{HERE}.TakesAnything"], ["cosin", True]),
    ("training.scheduler.T_max", ["auto", 5], [0, "all", 1.5]),
    ("training.scheduler.eta_min", [0, 1e-5], [-1e-6]),
    ("training.ema.enabled", [True, False], [1]),
    ("training.ema.decay", [0, 0.99999], [1, -0.1]),
    ("training.ema.warmup", [True, False], [None]),
    ("training.ema.further_decays", [[], [0, 0.99]], [0.99, None, ["0.9"]]),
    ("training.checkpointing.save_frequency", [1], [0]),
    ("training.checkpointing.save_best_only", [True, False], [0]),
    ("training.checkpointing.save_optimizer", [True, False], ["no"]),
    ("training.checkpointing.keep_last", [1, 3, None], [0, -1, 1.5, "all"]),
    ("training.validation.enabled", [True, False], [None]),
    ("training.validation.frequency", [1], [0]),
    ("training.validation.metric", ["loss", "val/loss", "train/loss"], ["fid", None]),
    ("training.validation.mode", ["min", "max", None], ["lowest", 1]),
    ("evaluation.enabled", [False], [0, None]),
    ("evaluation.every", ["auto"], [0, "often"]),
    ("evaluation.metrics", [["fd", "kid"]], [[], ["fid"], ["kid", "kid"]]),
    ("evaluation.features", ["auto"], ["vgg", 3]),
    ("evaluation.weights", [None], [3]),
    ("evaluation.sha256", [None], ["abc"]),
    ("evaluation.num_samples", [256], [0, 2.5]),
    ("evaluation.split", ["train"], ["test"]),
    ("evaluation.cache_dir", [None], [3]),
    ("evaluation.sampler_steps", [10], [0]),
    ("evaluation.guidance_scale", [1.0, 1], [-1]),
    ("training.visualization.enabled", [True, False], [2]),
    ("training.visualization.interval", [1], [0]),
    ("training.visualization.num_samples", [1], [0]),
    ("training.visualization.guidance_scale", [0, 3.0], [-0.1]),
    ("training.performance.use_amp", [True, False], ["bf16"]),
    ("training.performance.precision", [None, "auto", 32, "bf16", "fp16"], [16, "32", "float"]),
    ("training.performance.use_tf32", [True, False], [0]),
    ("training.performance.cudnn_benchmark", [True, False], [0]),
    ("training.performance.compile_model", [True, False], [0]),
    ("training.performance.gradient_checkpointing", [True, False], [1]),
    ("training.watch.skip_non_finite", [0, 3], [-1, 1.5, None]),
    ("training.watch.spike_factor", [None, 1.5], [1.0, 0, "5"]),
    ("training.resume.enabled", [False], ["auto"]),
    ("training.resume.checkpoint", [None], [3]),  # with resume.enabled: tests/training/test_resume_changes.py
    ("training.resume.reset_optimizer", [False], [0]),
    ("training.resume.reset_scheduler", [False], [0]),
    ("training.resume.allow_other_data", [False], [0]),
    ("generation.checkpoint", [None, "last.ckpt"], [3, ""]),
    ("generation.wandb", ["auto", "always", "never"], ["sometimes", True, None]),
    ("generation.trust", ["my_lab.Net", [], ["my_lab.Net", "my_lab.Noise"]], ["Net", 3, ["a b.c"], None]),
    ("generation.sampling.num_samples", [1], [0]),
    ("generation.sampling.guidance_scale", [0, 1, 7.5, [0], [1, 2.5]], [-1, None, "2", [], True]),
    ("generation.sampling.use_ema", [True, False], [1]),
    ("generation.sampling.ema_decay", [None, 0, 0.999], [1, -0.1, "0.9"]),
    ("generation.sampling.labels", [None, [0, 9], ["cat", 3]], [[], 3, "cat"]),
    ("generation.sampling.batch_size", [1], [0]),
    ("generation.sampling.precision", [None, "auto", 32, "bf16", "fp16"], [16, "32"]),
    ("generation.output.save_individual", [True, False], [1]),
    ("generation.output.save_grid", [True, False], [1]),
    ("generation.output.grid_nrow", [1], [0]),
    ("generation.output.save_npz", [True, False], [1]),
    ("data.validation_split", [{"fraction": 0.5, "seed": 1}, {}], [{"fraction": 0}, {"fraction": 1}, {"seed": -1}]),
    (
        "logger",
        [
            {"backends": ["wandb", "tensorboard"], "mode": "online"},
            {"entity": None, "group": "mine"},
            {"name": "a", "dir": "b"},
        ],
        [
            *({"backends": ["wandbb"]}, {"backends": 3}, {"mode": "on"}, {"project": ""}, {"entity": 3}, {"group": ""}),
            *({"name": ""}, {"dir": 3}),
        ],
    ),
    (
        "guidance",
        [{}, {"interval": None, "rescale": 1}, {"interval": [0, 2.5]}],
        [{"interval": 2}, {"interval": [1]}, {"interval": [1, 2, 3]}, {"interval": [2, 2]}, {"rescale": 1.1}],
    ),
    ("sampler", [{"type": "ddim", "steps": 9}, {"type": "ddpm"}, {}], [{"type": "ddimm"}, {"type": None}]),
    ("logger.tags", [[], ["first try", "flowers"]], ["flowers", [3], None]),
    ("logger.notes", ["smaller network", None], [3, ["a"]]),
    ("logger.log_checkpoints", [True, False], ["all", 1, None]),
]
GOOD = [(key, value) for key, good, _ in ROWS for value in good]
BAD = [(key, value) for key, _, bad in ROWS for value in bad]

OF_A_SCHEDULER: list[tuple[str, str, list[object], list[object]]] = [
    ("cosine", "T_max", ["auto", 5], [0, "all", 1.5]),
    ("cosine", "eta_min", [0, 1e-5], [-1e-6, "0"]),
    ("warmup_cosine", "warmup_steps", [0, 40], [-1, 0.5]),
    ("warmup_cosine", "eta_min", [0, 1e-5], [-1e-6]),
    ("step", "step_size", [1, 30], [0, 1.5, "auto"]),
    ("step", "gamma", [0.1, 2], [0, -0.5]),
    ("plateau", "mode", ["min", "max"], ["least", True]),
    ("plateau", "factor", [0.5], [0, 1, -0.1]),
    ("plateau", "patience", [0, 9], [-1, 1.5]),
    ("plateau", "threshold", [0, 0.1], [-1, "0.1"]),
    ("plateau", "threshold_mode", ["rel", "abs", "ABS"], ["relative", True]),
    ("plateau", "cooldown", [0, 3], [-1, 0.5]),
    ("plateau", "min_lr", [0, 1e-6], [-1e-6, "0"]),
    ("plateau", "eps", [0, 1e-9], [-1e-9]),
    ("cosine", "last_epoch", [-1, 4], [-2, 1.5]),
    ("step", "last_epoch", [-1, 4], [-2, 1.5]),
]
"""Keys that belong to one type of learning-rate schedule."""

ENTRIES: list[tuple[str, object, str]] = [
    ("model.architecture.channel_multipliers", [1, 0, 2], "model.architecture.channel_multipliers[1] = 0: "),
    ("model.architecture.channel_multipliers", [], "model.architecture.channel_multipliers = []: "),
    ("generation.sampling.labels", [3, True], "generation.sampling.labels[1] = true: "),
    ("generation.sampling.labels", [-1], "generation.sampling.labels[0] = -1: "),
    ("generation.sampling.guidance_scale", [1, -1], "generation.sampling.guidance_scale[1] = -1: must be at least 0"),
    ("training.ema.further_decays", [0.5, 1], "training.ema.further_decays[1] = 1: must be less than 1"),
    ("guidance", {"interval": [-1, 2]}, "guidance.interval[0] = -1: must be at least 0"),
    ("guidance", {"interval": [2, 1]}, "guidance.interval = [2, 1]: must be two numbers, the first below the second"),
]


def leaves(tree: dict[str, Any], prefix: str = "") -> list[str]:
    return [
        key
        for name, value in tree.items()
        for key in (leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else [prefix + name])
    ]


def message(tree: dict[str, Any]) -> str:
    with pytest.raises(ValueError, match="wrong:") as caught:
        validate_config(tree)
    return str(caught.value)


def test_default_is_accepted(default: dict[str, Any]) -> None:
    validate_config(default)


@pytest.mark.parametrize(("key", "value"), GOOD)
def test_allowed_value(changed: Change, key: str, value: object) -> None:
    validate_config(changed({key: value}))


@pytest.mark.parametrize(("key", "value"), BAD)
def test_value_beyond_the_bounds_is_named(changed: Change, key: str, value: object) -> None:
    line = message(changed({key: value})).splitlines()[1]
    place = f"{key}.{next(iter(value))}" if isinstance(value, dict) else key
    assert line.startswith(f"  {place}")
    if not isinstance(value, list | dict):
        assert line.startswith(f"  {key} = {json.dumps(value)}: ")


@pytest.mark.parametrize(("key", "value", "line"), ENTRIES)
def test_entry_of_a_list_is_named(changed: Change, key: str, value: object, line: str) -> None:
    assert line in message(changed({key: value}))


@pytest.mark.parametrize(("kind", "name", "good", "bad"), OF_A_SCHEDULER)
def test_key_of_a_scheduler(changed: Change, kind: str, name: str, good: list[object], bad: list[object]) -> None:
    needed = {"T_max": "auto", "eta_min": 0.0} if kind == "cosine" else {}
    for value in good:
        validate_config(changed({"training.scheduler": {"type": kind, **needed, name: value}}))
    for value in bad:
        text = message(changed({"training.scheduler": {"type": kind, **needed, name: value}}))
        assert text.splitlines()[1].startswith(f"  training.scheduler.{name} = {json.dumps(value)}: must be ")


OF_DIT: list[tuple[str, list[object], list[object]]] = [
    ("hidden_size", [16, 64], [0, 7.5, None]),
    ("depth", [1, 12], [0, 1001, "6"]),
    ("num_heads", [1, 4], [0, 2.5]),
    ("mlp_ratio", [1, 2.5], [0, -1, "4"]),
    ("patch_size", [1, 4, "auto"], [0, 1.5]),
    ("dropout", [0, 0.5], [1, -0.1]),
]


@pytest.mark.parametrize(("name", "good", "bad"), OF_DIT)
def test_key_of_a_transformer(changed: Change, name: str, good: list[object], bad: list[object]) -> None:
    dit = {"type": "dit", "image_size": 32, "in_channels": 3, "hidden_size": 16, "depth": 2, "num_heads": 2}
    for value in good:
        validate_config(changed({"model.architecture": {**dit, name: value}}))
    for value in bad:
        text = message(changed({"model.architecture": {**dit, name: value}}))
        assert text.splitlines()[1].startswith(f"  model.architecture.{name} = {json.dumps(value)}: must be ")


@pytest.mark.parametrize("kind", [kind for kind in SCHEDULES if kind])
def test_key_of_another_scheduler_is_named(changed: Change, kind: str) -> None:
    for owner, name, (value, *_), _ in OF_A_SCHEDULER:
        if name not in SchedulerSettings.options_of(kind):
            text = message(changed({"training.scheduler": {"type": kind, name: value}}))
            assert f"training.scheduler.{name} = {json.dumps(value)}: belongs to type " in text
            assert owner in text


def test_each_key_is_tried() -> None:
    """Keys of the format, and those that the project adds."""
    tried = {key for key, _, _ in ROWS} | {key for key, _, _ in ENTRIES}
    tried |= {f"{key}.{name}" for key, _, bad in ROWS for value in bad if isinstance(value, dict) for name in value}
    tried |= {f"training.scheduler.{name}" for _, name, _, _ in OF_A_SCHEDULER}
    tried |= {f"model.architecture.{name}" for name, _, _ in OF_DIT}
    tried |= {"data.paths.train"}  # as a folder that must be there
    of_dataclasses = [choice for choice in CHOICES if not issubclass(next(iter(choice.NAMED.values())), Options)]
    tried |= {f"{choice.KEY}.{option}" for choice in of_dataclasses for option in choice.all_options()}
    sections = {key.rpartition(".")[0] for key in known_keys(TrainConfig)}
    assert set(known_keys(TrainConfig)) - sections <= tried
    assert set(leaves(get_default_config())) <= tried


def test_name_and_mode_may_be_left_out(default: dict[str, Any]) -> None:
    for key in ("experiment", "mode"):
        drop(default, key)
    config = parse_config(default)
    assert (config.experiment, config.mode) == ("diffusion", "train")


@pytest.mark.parametrize("key", sorted({*leaves(get_default_config())} - {"experiment", "mode"}))
def test_each_other_key_of_the_format_is_required_for_training(default: dict[str, Any], key: str) -> None:
    drop(default, key)
    if key in ("training.scheduler.T_max", "training.scheduler.eta_min"):
        validate_config(default)  # of the cosine schedule only
        default["training"]["scheduler"]["type"] = "cosine"
    assert f"  {key}: required" in message(default)


def test_extensions_have_defaults(default: dict[str, Any]) -> None:
    config = parse_config(default)
    assert config.mode == "train"
    assert config.model.architecture.type == "unet"
    assert config.data.type == "image_folder"
    assert config.data.validation_split.fraction == 0.1
    assert config.logger.backends == ()


def test_integers_are_accepted_as_numbers(changed: Change) -> None:
    config = parse_config(changed({"training.optimizer.learning_rate": 1}))
    assert config.training is not None
    assert config.training.optimizer.learning_rate == 1.0


def test_number_in_quotes_is_explained(changed: Change) -> None:
    text = message(changed({"training.optimizer.learning_rate": "1e-4"}))
    assert 'training.optimizer.learning_rate = "1e-4": must be a number, not a string' in text


def test_settings_cannot_be_changed(default: dict[str, Any]) -> None:
    config = parse_config(default)
    with pytest.raises(ValueError, match="frozen"):
        config.compute.seed = 3


def test_dumped_settings_are_an_equivalent_valid_tree(default: dict[str, Any]) -> None:
    config = parse_config(default)
    assert parse_config(config.model_dump(mode="json")) == config


def test_dumped_settings_contain_no_unset_options(changed: Change) -> None:
    config = parse_config(changed({"training.scheduler": {"type": "step", "step_size": 3}}))
    assert config.training is not None
    written = config.training.model_dump(mode="json")
    assert written["scheduler"] == {"type": "step", "step_size": 3}
    assert written["optimizer"] == get_default_config()["training"]["optimizer"]


def test_errors_are_value_errors_with_a_list_of_faults(changed: Change) -> None:
    with pytest.raises(ConfigError) as caught:
        validate_config(changed({"training.epochs": 0, "compute.seed": -1}))
    assert [fault.key for fault in caught.value.faults] == ["compute.seed", "training.epochs"]


def test_errors_can_be_pickled(default: dict[str, Any]) -> None:
    drop(default, "training.epochs")
    with pytest.raises(ConfigError) as caught:
        validate_config(default)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
