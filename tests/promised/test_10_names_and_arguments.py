"""Names in any case, ``none`` for null, and every argument of torch's optimizers and schedules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from diffusion_lab import create_ddpm
from diffusion_lab.config import get_default_config, parse_config, validate_config
from diffusion_lab.config.optimizer_section import TORCH_OPTIMIZERS
from diffusion_lab.config.scheduler_section import TORCH_NAMES, TORCH_SCHEDULERS
from diffusion_lab.training.lr_schedules import create_schedule
from diffusion_lab.training.optimizers import create_optimizer
from tests.commands.conftest import run_here

PLATEAU = {
    "type": "Plateau",
    "mode": "MIN",
    "factor": 0.5,
    "patience": 3,
    "threshold": 0.01,
    "threshold_mode": "Abs",
    "cooldown": 2,
    "min_lr": 1e-6,
    "eps": 1e-9,
}


def changed(**sections: Any) -> dict[str, Any]:
    config = get_default_config()
    for name, values in sections.items():
        config["training"][name] = values
    return config


def test_names_in_any_case_and_none() -> None:
    config = get_default_config()
    config["mode"] = "Train"
    config["compute"]["device"] = "CPU"
    config["training"]["optimizer"]["type"] = "AdamW"
    config["training"]["scheduler"]["type"] = "None"
    config["model"]["diffusion"]["beta_schedule"] = "Linear"
    config["model"]["conditioning"]["type"] = "none"
    validate_config(config)
    settings = parse_config(config)
    assert settings.model is not None
    assert settings.training is not None
    assert (settings.mode, settings.compute.device) == ("train", "cpu")
    assert (settings.training.optimizer.type, settings.training.scheduler.type) == ("adamw", None)
    assert (settings.model.diffusion.beta_schedule, settings.model.conditioning.type) == ("linear", None)
    assert create_ddpm(image_size=8, model_channels=8, beta_schedule="COSINE").num_classes is None


@pytest.mark.parametrize(
    ("typed", "options", "expected"),
    [
        ("ReduceLROnPlateau", {"patience": 3}, "plateau"),
        ("CosineAnnealingLR", {"T_max": "auto", "eta_min": 0.0}, "cosine"),
        ("steplr", {"step_size": 5}, "step"),
    ],
)
def test_the_names_of_torch_are_accepted(typed: str, options: dict[str, Any], expected: str) -> None:
    config = changed(scheduler={"type": typed, **options})
    validate_config(config)
    settings = parse_config(config).training
    assert settings is not None
    assert settings.scheduler.type == expected


@pytest.mark.parametrize("path", TORCH_OPTIMIZERS)
def test_another_optimizer_of_torch_is_suggested_by_its_path(path: str) -> None:
    optimizer = get_default_config()["training"]["optimizer"]
    for name in (path.rpartition(".")[2], path.rpartition(".")[2].lower()):
        with pytest.raises(ValueError, match="1 setting is wrong") as caught:
            validate_config(changed(optimizer=optimizer | {"type": name, "momentum": 0.9}))
        assert f"(did you mean '{path}'?)" in str(caught.value)
    settings = parse_config(changed(optimizer=optimizer | {"type": path})).training
    assert settings is not None
    network = create_ddpm(image_size=8, model_channels=8, channel_multipliers=[1], use_attention=[False])
    assert type(create_optimizer(settings.optimizer, network.parameters())).__name__ == path.rpartition(".")[2]


@pytest.mark.parametrize("path", TORCH_SCHEDULERS)
def test_another_schedule_of_torch_is_suggested_by_its_path(path: str) -> None:
    name = path.rpartition(".")[2]
    assert issubclass(getattr(torch.optim.lr_scheduler, name), torch.optim.lr_scheduler.LRScheduler)
    with pytest.raises(ValueError, match="1 setting is wrong") as caught:
        validate_config(changed(scheduler={"type": name, "gamma": 0.9, "milestones": [3]}))
    assert f"(did you mean '{path}'?)" in str(caught.value)


def test_a_misspelled_key_next_to_a_wrong_type_is_named() -> None:
    optimizer = get_default_config()["training"]["optimizer"] | {"type": "SGD", "momentum": 0.9, "weight_decai": 0.1}
    with pytest.raises(ValueError, match="2 settings are wrong") as caught:
        validate_config(changed(optimizer=optimizer))
    assert "(did you mean 'training.optimizer.weight_decay'?)" in str(caught.value)


def test_the_names_of_torch_mean_its_classes() -> None:
    for name in TORCH_NAMES:
        assert hasattr(torch.optim.lr_scheduler, name)


def test_the_learning_rate_as_a_metric_is_suggested_by_its_logged_name() -> None:
    for name in ("lr", "train/lr"):
        validation = get_default_config()["training"]["validation"] | {"metric": name}
        with pytest.raises(ValueError, match=r"did you mean 'train/learning_rate'\?"):
            validate_config(changed(validation=validation))


def test_a_run_writes_the_canonical_spelling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_here(
        "train",
        [
            "experiment=fast_debug",
            "training.optimizer.type=AdamW",
            "+training.optimizer.amsgrad=true",
            "+training.optimizer.eps=1e-6",
            "scheduler=cosine",
            "training.scheduler.type=Cosine",
            "+training.scheduler.last_epoch=0",
            "compute.device=CPU",
            "logger=none",
            "output.base_dir=run",
        ],
    )
    written = yaml.safe_load(Path("run/config.yaml").read_text())
    assert written["compute"]["device"] == "cpu"
    assert (
        written["training"]["optimizer"] | {"type": "adamw", "amsgrad": True, "eps": 1e-6}
        == (written["training"]["optimizer"])
    )
    assert written["training"]["scheduler"] | {"type": "cosine", "last_epoch": 0} == written["training"]["scheduler"]


def test_arguments_of_the_optimizer_reach_torch() -> None:
    given = {"amsgrad": True, "eps": 1e-6, "maximize": False, "foreach": True, "capturable": False}
    config = changed(optimizer={**get_default_config()["training"]["optimizer"], **given})
    settings = parse_config(config).training
    assert settings is not None
    network = create_ddpm(image_size=8, model_channels=8, channel_multipliers=[1], use_attention=[False])
    (group,) = create_optimizer(settings.optimizer, network.parameters()).param_groups
    assert {name: group[name] for name in given} == given


def test_arguments_of_the_schedule_reach_torch() -> None:
    settings = parse_config(changed(scheduler=PLATEAU)).training
    assert settings is not None
    network = create_ddpm(image_size=8, model_channels=8, channel_multipliers=[1], use_attention=[False])
    optimizer = create_optimizer(settings.optimizer, network.parameters())
    entry = create_schedule("plateau", settings.scheduler_options(), optimizer, 10, "val/loss")
    assert entry is not None
    found = vars(entry["scheduler"])
    names = ("factor", "patience", "threshold", "cooldown", "eps")
    assert {name: found[name] for name in names} == {name: PLATEAU[name] for name in names}
    assert (found["mode"], found["threshold_mode"], found["min_lrs"]) == ("min", "abs", [1e-6])


@pytest.mark.parametrize(
    ("section", "name", "value", "rule"),
    [
        ("optimizer", "amsgradd", True, "unknown key .*amsgrad"),
        ("optimizer", "threshold", 0.1, "unknown key"),
        ("optimizer", "amsgrad", "yes", "must be true or false"),
        ("optimizer", "differentiable", True, "must be false"),
        ("optimizer", "lr", 0.1, "the project sets itself, from training.optimizer.learning_rate"),
        ("optimizer", "params", [], "the project sets itself"),
        ("scheduler", "total_steps", 10, "the project sets itself"),
        ("scheduler", "cooldown", 1, "belongs to type plateau, not to cosine"),
        ("scheduler", "last_epoch", -2, "must be at least -1"),
    ],
)
def test_arguments_are_checked(section: str, name: str, value: Any, rule: str) -> None:
    base = {
        "optimizer": get_default_config()["training"]["optimizer"],
        "scheduler": {"type": "cosine", "T_max": "auto", "eta_min": 0.0},
    }
    with pytest.raises(ValueError, match=rf"training\.{section}\.{name} = .*{rule}"):
        validate_config(changed(**{section: {**base[section], name: value}}))
