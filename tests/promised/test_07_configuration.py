"""Recipes for settings trees: consistency, output folders, optional keys."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from diffusion_lab import create_ddpm, load_denoiser
from diffusion_lab.__main__ import main
from diffusion_lab.config import (
    get_default_config,
    parse_config,
    resolve_output_path,
    validate_config,
    validate_config_consistency,
)
from diffusion_lab.typed_settings.settings_reader import leaves

MODEL = {
    "architecture": {
        "image_size": 8,
        "in_channels": 1,
        "model_channels": 8,
        "channel_multipliers": [1],
        "use_attention": [False],
    },
    "diffusion": {"num_timesteps": 10, "beta_schedule": "cosine", "beta_start": 0.0001, "beta_end": 0.02},
    "conditioning": {"type": None, "num_classes": None, "class_dropout_prob": 0.1},
}


def test_t_max_auto_becomes_the_epochs_in_place() -> None:
    config = get_default_config()
    config["training"]["epochs"] = 150
    config["training"]["scheduler"] = {"type": "cosine", "T_max": "auto", "eta_min": 1e-6}
    validate_config_consistency(config)
    assert config["training"]["scheduler"]["T_max"] == 150


@pytest.mark.parametrize("num_classes", [None, 0, -1])
def test_class_conditioning_needs_a_number_of_classes(num_classes: int | None) -> None:
    config = get_default_config()
    config["model"]["conditioning"] |= {"type": "class", "num_classes": num_classes}
    with pytest.raises(ValueError, match=r"num_classes .*: the number of classes, at least 1, or auto"):
        validate_config_consistency(config)
    with pytest.raises(ValueError, match="num_classes"):
        validate_config(config)


@pytest.mark.parametrize("num_classes", ["3", 2.0, True])
def test_the_number_of_classes_is_an_integer(num_classes: Any) -> None:
    config = get_default_config()
    config["model"]["conditioning"] |= {"type": "class", "num_classes": num_classes}
    for check in (validate_config, validate_config_consistency):
        with pytest.raises(ValueError, match=r"num_classes = .*: must be an integer or 'auto'"):
            check(config)


def test_output_paths() -> None:
    config = get_default_config()
    config["output"]["subdirs"]["figures"] = "figures"
    assert resolve_output_path(config, "logs") == Path("outputs/logs")
    assert resolve_output_path(config, subdir_key="logs") == Path("outputs/logs")
    assert resolve_output_path(config, subdir_key="figures") == Path("outputs/figures")
    validate_config(config)


def test_the_documented_tree_needs_no_name_and_no_mode() -> None:
    config = get_default_config()
    del config["experiment"], config["mode"]
    validate_config(config)
    validate_config_consistency(deepcopy(config))
    assert (parse_config(config).experiment, parse_config(config).mode) == ("diffusion", "train")


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Plain state dict without the settings of its model."""
    model = create_ddpm(**MODEL["architecture"], **MODEL["diffusion"])  # type: ignore[arg-type]
    torch.save(model.network.state_dict(), tmp_path / "weights.pt")
    return tmp_path / "weights.pt"


def of_a_file(tmp_path: Path, tree: dict[str, Any]) -> str:
    file = tmp_path / "generate.yaml"
    file.write_text(yaml.safe_dump(tree))
    return str(file)


def test_a_generate_file_has_mode_model_generation_and_output(tmp_path: Path, weights: Path) -> None:
    tree = {
        "mode": "generate",
        "model": MODEL,
        "generation": {"checkpoint": str(weights), "sampling": {"num_samples": 2}},
        "output": {"base_dir": str(tmp_path / "made")},
    }
    validate_config(tree)
    config = parse_config(tree)
    assert (config.compute.device, config.compute.seed) == ("auto", None)
    assert (config.generation.sampling.guidance_scale, config.generation.sampling.use_ema) == (3.0, True)
    main([of_a_file(tmp_path, tree), "generation.sampling.use_ema=false", "sampler.steps=2", "compute.device=cpu"])
    made = sorted(file.name for file in (tmp_path / "made" / "generated").iterdir())
    assert made == ["grid.png", "manifest.jsonl", "sample_0000.png", "sample_0001.png"]


def test_a_mistyped_section_of_a_generate_file_is_named(
    tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = {
        "mode": "generate",
        "modle": MODEL,
        "compte": {"device": "cpu"},
        "generation": {"checkpoint": str(weights), "sampling": {"num_sample": 2}},
        "output": {"base_dir": str(tmp_path / "made")},
    }
    with pytest.raises(SystemExit):
        main([of_a_file(tmp_path, tree)])
    printed = capsys.readouterr().err
    for key in ("modle", "compte.device", "generation.sampling.num_sample"):
        assert f"{key} = " in printed
    for expected in ("model", "compute.device", "generation.sampling.num_samples"):
        assert f"(did you mean '{expected}'?)" in printed
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "part",
    [
        {"training": {"epochs": 3}},
        {"training": {"scheduler": {"type": "cosine"}, "ema": {"decay": 0.99}}},
        {"data": {"paths": {"train": "nowhere"}}},
        {"model": {"diffusion": {"num_timesteps": 20}}},
        {"model": {"architecture": {"image_size": 8}, "conditioning": {"type": None}}},
    ],
    ids=str,
)
def test_a_generate_file_may_hold_a_part_of_any_section(tmp_path: Path, part: dict[str, Any]) -> None:
    generate = {
        "mode": "generate",
        "generation": {"checkpoint": str(tmp_path)},
        "output": {"base_dir": str(tmp_path / "made")},
    }
    tree = generate | part
    before = deepcopy(tree)
    validate_config(tree)
    validate_config_consistency(tree)
    assert tree == before
    filled = leaves(parse_config(tree).model_dump(mode="json"))
    assert leaves(part).items() <= filled.items()
    default = leaves(get_default_config())
    for key in ("training.optimizer.learning_rate", "data.loading.batch_size", "model.diffusion.beta_schedule"):
        if key.partition(".")[0] in part:
            assert filled[key] == default[key]


def test_parts_of_sections_of_a_generate_file_are_checked(tmp_path: Path) -> None:
    tree = {
        "mode": "generate",
        "model": {"architecture": {"channel_multipliers": [1, 2]}, "diffusion": {"num_timestep": 20}},
        "data": {"loading": {"batch_size": 0}},
        "training": {"epoch": 3, "scheduler": {"type": "cosine"}},
        "generation": {"checkpoint": str(tmp_path)},
        "output": {"base_dir": "made"},
    }
    with pytest.raises(ValueError, match="4 settings are wrong") as caught:
        validate_config(tree)
    for phrase in (
        "model.diffusion.num_timestep = 20: unknown key (did you mean 'model.diffusion.num_timesteps'?)",
        "model.architecture.use_attention: required, but missing",  # which has to fit the multipliers
        "data.loading.batch_size = 0: must be at least 1",
        "training.epoch = 3: unknown key (did you mean 'training.epochs'?)",
    ):
        assert phrase in str(caught.value)


def test_load_denoiser_accepts_a_part_of_the_model_section(weights: Path) -> None:
    denoiser = load_denoiser(weights, use_ema=False, model={"architecture": MODEL["architecture"]})
    assert denoiser.schedule.num_timesteps == 1000
    denoiser = load_denoiser(weights, use_ema=False, model=MODEL | {"diffusion": {"num_timesteps": 20}})
    assert denoiser.schedule.num_timesteps == 20
    with pytest.raises(ValueError, match=r"did you mean 'model\.diffusion\.num_timesteps'"):
        load_denoiser(weights, use_ema=False, model={"diffusion": {"num_timestep": 20}})


def test_a_training_file_still_needs_its_sections() -> None:
    with pytest.raises(ValueError, match="compute: required, but missing"):
        validate_config({"mode": "train", "output": {"base_dir": "made"}})
