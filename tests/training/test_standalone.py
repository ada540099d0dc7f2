"""Modules without a run, and errors about those that cannot be built or loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from diffusion_lab import load_denoiser
from diffusion_lab.checkpoint import find_checkpoint
from diffusion_lab.commands.checkpoint import main as checkpoint_command
from diffusion_lab.config import ConfigWarning, get_default_config
from diffusion_lab.training.callbacks import EMACallback
from diffusion_lab.training.module import DiffusionModule
from tests.training.tiny import BIAS_PLAN, saved, tiny_fit, tiny_run, tiny_tree

BIAS = "tests.training.tiny.BiasPlan"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    tiny_run(folder, {"training.epochs": 1})
    return folder


@pytest.fixture(scope="module")
def run_of_own_optimizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "own"
    tiny_run(folder, {"training.epochs": 1, **BIAS_PLAN})
    return folder


def test_state_and_settings_are_those_of_the_checkpoint(run: Path) -> None:
    module = DiffusionModule.load_from_checkpoint(run)
    content = saved(find_checkpoint(run))
    state = module.state_dict()
    assert state.keys() == content["state_dict"].keys()
    assert all(torch.equal(value, content["state_dict"][name]) for name, value in state.items())
    assert int(module.ema.updates) == content["global_step"]  # type: ignore[union-attr]
    assert module.configure_optimizers().param_groups[0]["lr"] == 0.01  # type: ignore[union-attr]
    assert module.metadata["config"] == content["diffusion_lab"]["config"]
    assert not {"run_id", "wandb_id", "step"} & module.metadata.keys()  # of the run that wrote it


def test_a_subclass_loads_itself(run: Path) -> None:
    class Mine(DiffusionModule):
        """Custom module."""

    assert type(Mine.load_from_checkpoint(run)) is Mine
    assert type(Mine.from_settings(get_default_config())) is Mine


def test_a_custom_class_is_imported_only_if_it_is_trusted(run_of_own_optimizer: Path) -> None:
    with pytest.raises(ValueError, match=rf"names the class '{BIAS}' for its optimizer.*trust=\['{BIAS}'\]\)"):
        DiffusionModule.load_from_checkpoint(run_of_own_optimizer)
    module = DiffusionModule.load_from_checkpoint(run_of_own_optimizer, trust=[BIAS])
    assert type(module.configure_optimizers()).__name__ == "BiasPlan"


def test_every_class_that_is_not_trusted_is_named(run: Path, tmp_path: Path) -> None:
    content = saved(find_checkpoint(run))
    config = content["diffusion_lab"]["config"]
    config["model"]["diffusion"]["type"] = "lab.Process"
    config["training"]["loss"]["penalty"] = {"type": "lab.Penalty"}
    torch.save(content, tmp_path / "foreign.ckpt")
    with pytest.raises(ValueError, match=r"'lab.Process' for its noise process, the class 'lab.Penalty' for its pen"):
        DiffusionModule.load_from_checkpoint(tmp_path / "foreign.ckpt")
    with pytest.raises(ValueError, match=r"'lab.Penalty' for its penalty, which"):
        DiffusionModule.load_from_checkpoint(tmp_path / "foreign.ckpt", trust=["lab.Process"])


def test_error_about_weights_without_settings_names_load_denoiser(run: Path, tmp_path: Path) -> None:
    torch.save(load_denoiser(run).state_dict(), tmp_path / "plain.pt")
    exported = tmp_path / "exported.safetensors"
    checkpoint_command(["export", str(find_checkpoint(run)), "--output", str(exported)])
    for path in (tmp_path / "plain.pt", exported):
        with pytest.raises(ValueError, match=f"{path} holds weights without the settings and the state .*load_denoise"):
            DiffusionModule.load_from_checkpoint(path)
    with pytest.raises(FileNotFoundError):
        DiffusionModule.load_from_checkpoint(tmp_path / "nothing.ckpt")


def test_missing_averages_are_refused(run: Path, tmp_path: Path) -> None:
    content = saved(find_checkpoint(run))
    content["diffusion_lab"]["config"]["training"]["ema"]["further_decays"] = [0.5]
    torch.save(content, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match=r"other\.ckpt does not hold the averages that its settings ask for"):
        DiffusionModule.load_from_checkpoint(tmp_path / "other.ckpt")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda run: DiffusionModule.load_from_checkpoint(run, "cuda:7"),
            "^map_location must be a device of this mach",
        ),
        (lambda _: DiffusionModule.from_settings(get_default_config(), "cuda:7"), "^device must be a device of this m"),
        (lambda _: DiffusionModule.from_settings({"modle": {}}), "modle = {}: unknown key"),
        (lambda _: DiffusionModule.from_settings({"model": {}}), r"model\.architecture: required, but missing"),
    ],
)
def test_invalid_calls_are_refused(call: Any, message: str, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=message):
        call(run)
    with pytest.raises(TypeError, match="must be a mapping of keys to values, got list"):
        DiffusionModule.from_settings([])  # type: ignore[arg-type]


def test_settings_of_the_network_reach_it(tmp_path: Path) -> None:
    changes = {"training.performance.precision": "bf16", "training.ema.enabled": False, "training.epochs": 1}
    module = DiffusionModule.from_settings(tiny_tree(tmp_path, changes))
    assert module.denoiser.compute_dtype == torch.bfloat16
    assert module.ema is None
    without_training = DiffusionModule.from_settings({"model": tiny_tree(tmp_path)["model"]})
    assert without_training.ema is not None
    assert without_training.ema.decay == get_default_config()["training"]["ema"]["decay"]


def test_a_checkpoint_of_float16_loads_on_a_cpu(run: Path, tmp_path: Path) -> None:
    content = saved(find_checkpoint(run))
    performance = content["diffusion_lab"]["config"]["training"]["performance"]
    performance |= {"precision": "fp16", "compile_model": True}
    torch.save(content, tmp_path / "fp16.ckpt")
    module = DiffusionModule.load_from_checkpoint(tmp_path / "fp16.ckpt")
    assert module.denoiser.compute_dtype == torch.float32
    assert module.denoiser.network._compiled_call_impl is None


def test_warning_about_a_process_that_does_not_end_in_noise(run: Path, tmp_path: Path) -> None:
    """As in create_ddpm and load_denoiser, at the caller's line."""
    content = saved(find_checkpoint(run))
    config = content["diffusion_lab"]["config"]
    config["model"]["diffusion"] |= {"beta_schedule": "linear"}
    torch.save(content, tmp_path / "linear.ckpt")
    for call in (
        lambda: DiffusionModule.from_settings(config),
        lambda: DiffusionModule.load_from_checkpoint(tmp_path / "linear.ckpt"),
    ):
        with pytest.warns(ConfigWarning, match=r"of the image left") as caught:
            call()
        assert [warning.filename for warning in caught if warning.category is ConfigWarning] == [__file__]


def test_the_sampler_stays_on_the_device_of_the_weights(tmp_path: Path) -> None:
    """On any device that the trainer has left the module on: nothing is moved."""
    _, module = tiny_fit(tmp_path, [EMACallback()], {"training.epochs": 1})
    module.to("meta")
    assert module.sampler.device == torch.device("meta")
    assert {weight.device.type for weight in module.parameters()} == {"meta"}
