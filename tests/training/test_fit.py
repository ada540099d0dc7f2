"""Training runs: seeds, settings of the trainer, and settings that are refused before anything is written."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console

from diffusion_lab.checkpoint import find_checkpoint
from diffusion_lab.config.schema import TrainConfig
from diffusion_lab.config.validate import parse_as
from diffusion_lab.create import create_denoiser
from diffusion_lab.diffusion.loss import DenoisingLoss
from diffusion_lab.ema import EMA
from diffusion_lab.networks import UNet
from diffusion_lab.networks.cost import forward_flops
from diffusion_lab.runtime import precision
from diffusion_lab.training.callbacks import TrainingProgress
from diffusion_lab.training.callbacks.training_monitor import TrainingMonitor
from diffusion_lab.training.create import prepare_denoiser
from diffusion_lab.training.module import DiffusionModule
from tests.training.tiny import saved, tiny_config, tiny_fit, tiny_run, tiny_trainer

ONE_EPOCH = {"training.epochs": 1, "training.validation.enabled": False}


def weights(folder: Path) -> torch.Tensor:
    state = saved(find_checkpoint(folder, "last"))["state_dict"]
    return torch.cat([value.flatten() for name, value in state.items() if name.startswith("denoiser.")])


def test_seed_zero_is_a_seed(tmp_path: Path) -> None:
    for name, seed in (("zero", 0), ("again", 0), ("one", 1)):
        torch.manual_seed(len(name))  # what the process drew before does not matter
        tiny_run(tmp_path / name, {"compute.seed": seed, **ONE_EPOCH})
    assert torch.equal(weights(tmp_path / "zero"), weights(tmp_path / "again"))
    assert not torch.equal(weights(tmp_path / "zero"), weights(tmp_path / "one"))


def test_seed_that_was_drawn_is_recorded_and_repeats_the_run(tmp_path: Path) -> None:
    tiny_run(tmp_path / "drawn", {"compute.seed": None, **ONE_EPOCH})
    seed = yaml.safe_load((tmp_path / "drawn" / "config.yaml").read_text())["compute"]["seed"]
    assert isinstance(seed, int)
    assert saved(find_checkpoint(tmp_path / "drawn", "last"))["diffusion_lab"]["seed"] == seed
    tiny_run(tmp_path / "again", {"compute.seed": seed, **ONE_EPOCH})
    assert torch.equal(weights(tmp_path / "drawn"), weights(tmp_path / "again"))


class Gradients(Callback):
    """Records the total norm of the gradients that the optimizer gets."""

    def __init__(self) -> None:
        self.norms: list[float] = []

    def on_before_zero_grad(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        grads = [weight.grad for weight in pl_module.parameters() if weight.grad is not None]
        if grads:
            self.norms.append(float(torch.nn.utils.get_total_norm(grads)))


@pytest.mark.parametrize("accumulated", [1, 2])
@pytest.mark.parametrize("watched", [False, True])
def test_gradients_are_clipped_to_the_norm(tmp_path: Path, watched: bool, accumulated: int) -> None:
    """Adam is invariant to the scale of gradients, so the test looks at the gradients themselves.

    With the monitor their norm is known already; the last step of an epoch, of fewer batches, rescales it.
    """
    norms = []
    for clip in (None, 0.01, 1e3):
        seen, watch = Gradients(), TrainingMonitor(0, None, 1, Console(quiet=True))
        changes = {"training.optimizer.gradient_clip_norm": clip, "training.accumulate_batches": accumulated}
        tiny_fit(tmp_path, [*([watch] if watched else []), seen], changes)
        norms.append(seen.norms)
    assert min(norms[0]) > 0.02
    assert norms[1] == pytest.approx([0.01] * len(norms[1]), rel=1e-3)
    assert norms[2] == norms[0]


@pytest.mark.parametrize(
    ("asked", "in_hardware", "expected"),
    [
        ({"use_amp": False}, True, torch.float32),
        ({"use_amp": True}, True, torch.bfloat16),
        ({"use_amp": True}, False, torch.float32),
        ({"use_amp": True, "precision": "bf16"}, False, torch.bfloat16),
        ({"use_amp": False, "precision": "auto"}, True, torch.bfloat16),
    ],
)
def test_precision_reaches_the_denoiser_and_its_average(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any], in_hardware: bool, expected: torch.dtype
) -> None:
    monkeypatch.setattr(precision, "has_bfloat16", lambda device: in_hardware)
    config = tiny_config(tmp_path, {f"training.performance.{name}": value for name, value in asked.items()})
    denoiser = create_denoiser(config.model)
    prepare_denoiser(denoiser, config.training.performance, torch.device("cpu"))
    assert denoiser.compute_dtype == EMA(denoiser, 0.9).average.compute_dtype == expected


def losses(folder: Path) -> list[float]:
    lines = map(json.loads, (folder / "logs" / "metrics.jsonl").read_text().splitlines())
    return [line["train/loss"] for line in lines if "train/loss" in line]


def test_loss_curves_of_both_precisions_agree(tmp_path: Path) -> None:
    """Images, times and noise are the same, so that only rounding differs."""
    for name in (32, "bf16"):
        changes = {"training.performance.precision": name, "training.optimizer.learning_rate": 0.003}
        tiny_run(tmp_path / str(name), {"training.epochs": 12, "training.validation.enabled": False, **changes})
    full, mixed = (torch.tensor(losses(tmp_path / str(name))) for name in (32, "bf16"))
    assert not torch.equal(full, mixed)
    assert full[-3:].mean() < 0.8 * full[:3].mean()
    torch.testing.assert_close(mixed, full, rtol=0.05, atol=0.01)


def test_mixed_precision_trains_and_keeps_float32_weights(tmp_path: Path) -> None:
    tiny_run(tmp_path, {"training.performance.precision": "bf16", **ONE_EPOCH})
    trained = weights(tmp_path)
    assert trained.dtype == torch.float32
    assert trained.isfinite().all()
    assert not torch.equal(trained, trained.bfloat16().float())


class OneLevel(DenoisingLoss):
    """Loss without noise at one level, so that an image's loss does not depend on the batch it is in."""

    def per_image(self, denoiser: Any, clean: Any, label: Any, seed: int) -> Any:
        level = denoiser.schedule.levels(torch.full((len(clean),), 0.5, dtype=torch.float64))
        return (denoiser.predict(clean, level, label) - clean).square().flatten(1).mean(1), level


class TakesOneLevel(Callback):
    """Records the gradients of the last step."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, DiffusionModule)
        pl_module.loss = OneLevel()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.last = [weight.grad.clone() for weight in pl_module.parameters() if weight.grad is not None]


@pytest.mark.parametrize(
    ("size", "accumulated", "large"),
    [
        (12, 2, 24),
        (8, 2, 16),  # of 24 images: the last step has one batch, not two
        (5, 5, 24),  # the last batch of the step has 4 images, not 5
    ],
)
def test_accumulated_gradients_are_those_of_one_large_batch(
    tmp_path: Path, size: int, accumulated: int, large: int
) -> None:
    gradients = []
    for batch, batches in ((large, 1), (size, accumulated)):
        noting = TakesOneLevel()
        changes = {
            "data.loading.batch_size": batch,
            "data.loading.shuffle_train": False,
            "data.augmentation.horizontal_flip": False,  # drawn for each batch
            "data.loading.drop_last": False,
            "training.accumulate_batches": batches,
            "training.optimizer.type": "torch.optim.SGD",
            "training.optimizer.gradient_clip_norm": None,
            "model.architecture.dropout": 0.0,
            **ONE_EPOCH,
        }
        tiny_fit(tmp_path, [noting], changes)
        gradients.append(noting.last)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-3, atol=1e-4)


def test_gradient_checkpointing_changes_no_weight(tmp_path: Path) -> None:
    """The tiny network has dropout, too."""
    for asked in (False, True):
        tiny_run(tmp_path / str(asked), {"training.performance.gradient_checkpointing": asked, **ONE_EPOCH})
    assert torch.equal(weights(tmp_path / "False"), weights(tmp_path / "True"))


def test_gradient_checkpointing_is_refused_for_a_network_without_support(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, {"training.performance.gradient_checkpointing": True})
    denoiser = create_denoiser(config.model)
    denoiser.network = torch.nn.Identity()
    with pytest.raises(ValueError, match=r"gradient_checkpointing needs a network .*, got Identity"):
        prepare_denoiser(denoiser, config.training.performance, torch.device("cpu"))


def test_other_settings_reach_the_trainer(tmp_path: Path) -> None:
    trainer = tiny_trainer(
        tmp_path,
        [],
        {
            "training.epochs": 7,
            "training.accumulate_batches": 3,
            "training.validation.frequency": 2,
            "training.optimizer.gradient_clip_norm": 0.5,
            "training.log_interval": 4,
        },
    )
    assert (trainer.max_epochs, trainer.accumulate_grad_batches, trainer.check_val_every_n_epoch) == (7, 3, 2)
    assert (trainer.gradient_clip_val, trainer.log_every_n_steps) == (0.5, 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"training.optimizer.type": "torch.optim.SGD", "training.optimizer.bounce": 3},
            "training.optimizer.bounce = 3: torch.optim.SGD takes no such argument",
        ),
        (
            {"training.optimizer.type": "torch.optim.SGD", "training.optimizer.nesterov": True},
            "Nesterov momentum requires a momentum",  # a rule that only the class knows
        ),
        (
            {"training.scheduler": {"type": "torch.optim.lr_scheduler.ExponentialLR"}},
            "training.scheduler.gamma: required by torch.optim.lr_scheduler.ExponentialLR",
        ),
        ({"model.conditioning.num_classes": 4}, r"num_classes must be .* 3 \(low, middle, high\), got 4"),
        ({"data.loading.batch_size": 50, "data.loading.drop_last": True}, "data.loading.batch_size = 50"),
    ],
)
def test_refused_before_anything_is_written(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_run(tmp_path / "run", changes)
    assert not (tmp_path / "run").exists()


def test_custom_source_gets_its_options(tmp_path: Path) -> None:
    assert tiny_run(tmp_path, {"data.count": 12, **ONE_EPOCH}).train_images == 12


def test_folder_of_a_finished_run_explains_it(tmp_path: Path) -> None:
    shown = Console(file=io.StringIO(), width=200)
    summary = tiny_run(tmp_path, console=shown)
    status = json.loads((tmp_path / "status.json").read_text())
    assert status["state"] == "finished"
    environment = json.loads((tmp_path / "environment.json").read_text())
    assert {"command", "python", "platform", "packages", "git_commit"} <= environment.keys()
    facts, written = environment["run"], json.loads((tmp_path / "summary.json").read_text())
    both = facts.keys() & written.keys()
    assert {"parameters", "forward_flops", "train_images", "data_fingerprint", "config_hash", "threads"} <= both
    assert {key: facts[key] for key in both} == {key: written[key] for key in both}
    rest = {key: facts[key] for key in facts.keys() - both}
    assert rest == {
        "device": "cpu",
        "device_name": None,
        "precision": "float32",
        "validation_images": 6,
        "epochs_planned": 2,
        "steps_planned": 6,
    }
    config = parse_as(TrainConfig, yaml.safe_load((tmp_path / "config.yaml").read_text()), [])
    assert config.output.base_dir == tmp_path
    assert json.loads((tmp_path / "summary.json").read_text())["steps"] == summary.steps == 6
    work = forward_flops(create_denoiser(config.model).network, (1, 8, 8), num_classes=3)
    assert summary.forward_flops == work
    assert isinstance(shown.file, io.StringIO)
    assert f" M parameters, {work / 1e9:.3g} GFLOP per image (forward)\n" in shown.file.getvalue()
    for text in ("best val/loss", "best.ckpt", "step_00000006.ckpt", "peak memory", "images/s", f"ckpt={tmp_path}"):
        assert text in shown.file.getvalue()


class ValueReader(UNet):
    """Network that reads values, which tensors on ``meta`` do not have."""

    def forward(self, images: torch.Tensor, time: torch.Tensor, label: torch.Tensor | None = None) -> torch.Tensor:
        assert time.numpy().min() >= 0
        return super().forward(images, time, label)


def test_network_whose_operations_cannot_be_counted_trains(tmp_path: Path) -> None:
    shown = Console(file=io.StringIO(), width=200)
    own = {"model.architecture.type": "tests.training.test_fit.ValueReader"}
    assert tiny_run(tmp_path, ONE_EPOCH | own, shown).forward_flops is None
    assert isinstance(shown.file, io.StringIO)
    assert "M parameters\n" in shown.file.getvalue()


def test_transformer_trains(tmp_path: Path) -> None:
    sizes = {"hidden_size": 8, "depth": 1, "num_heads": 2, "patch_size": 2}
    own = {"model.architecture": {"type": "dit", "image_size": 8, "in_channels": 1, **sizes}}
    assert tiny_run(tmp_path, own).best_value is not None


def test_folder_of_a_failed_run_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("out of luck")

    monkeypatch.setattr(TrainingProgress, "on_train_epoch_end", fail)
    with pytest.raises(RuntimeError, match="out of luck"):
        tiny_run(tmp_path)
    status = json.loads((tmp_path / "status.json").read_text())
    assert (status["state"], status["why"]) == ("failed", "RuntimeError: out of luck")
    assert "Traceback" in (tmp_path / "logs" / "run.log").read_text()


def test_logger_that_cannot_be_opened_fails_the_run_with_a_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb

    def refuse(**_: Any) -> None:
        raise wandb.errors.UsageError("no such entity")

    monkeypatch.setattr(wandb, "init", refuse)
    monkeypatch.setattr("diffusion_lab.training.prepare.check_reachable", lambda _: None)  # it answers
    with pytest.raises(ValueError, match=r"W&B cannot start the run .*no such entity.*logger.mode=offline"):
        tiny_run(tmp_path, {"logger": {"backends": ["wandb"], "mode": "online"}})
    assert "no such entity" in json.loads((tmp_path / "status.json").read_text())["why"]


def test_existing_run_is_refused_unless_overwritten(tmp_path: Path) -> None:
    tiny_run(tmp_path, {"training.epochs": 2})
    with pytest.raises(ValueError, match=r"output.base_dir holds a run already.*finished.*output.overwrite=true"):
        tiny_run(tmp_path, ONE_EPOCH)
    tiny_run(tmp_path, {"output.overwrite": True, **ONE_EPOCH})
    assert [path.name for path in (tmp_path / "checkpoints").glob("*.ckpt")] == ["step_00000004.ckpt"]
    steps = [json.loads(line)["step"] for line in (tmp_path / "logs" / "metrics.jsonl").read_text().splitlines()]
    assert steps == [0, 1, 2, 3]
