"""The sampler of a module can be used at any time; sampling can use one batch and a given initial noise."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from diffusion_lab import DiffusionSampler, create_ddpm, load_denoiser
from diffusion_lab.checkpoint import find_checkpoint
from diffusion_lab.config import get_default_config
from diffusion_lab.networks.compiled import compile_in_place, reset_compiler
from diffusion_lab.runtime.devices import use_threads
from diffusion_lab.samplers import DDIMSampler, DDPMSampler
from diffusion_lab.sampling import SampleBatch
from diffusion_lab.shapes import Images
from diffusion_lab.training.callbacks import EMACallback, SampleImages
from diffusion_lab.training.module import DiffusionModule
from diffusion_lab.training.sources import create_datamodule
from tests.training.tiny import tiny_config, tiny_denoiser, tiny_fit, tiny_run, tiny_trainer, tiny_tree

ROOT = Path(__file__).parents[2]
QUICK = DDIMSampler(steps=2)


def sixteen(module: DiffusionModule, **options: Any) -> Images:
    return module.sampler.sample(num_samples=16, seed=0, sampler=QUICK, **options)


def settings_with_a_tiny_model() -> dict[str, Any]:
    settings = get_default_config()
    settings["model"]["architecture"] |= {"image_size": 8, "in_channels": 1, "model_channels": 8}
    return settings


def test_before_training() -> None:
    module = DiffusionModule.from_settings(settings_with_a_tiny_model())
    assert module.sampler.sample(num_samples=16).shape == (16, 1, 8, 8)
    assert module.sampler.sample(num_samples=16, use_ema=False).shape == (16, 1, 8, 8)


HOOKS = ("on_train_batch_start", "on_after_backward", "on_train_batch_end", "on_train_epoch_end", "on_validation_end")


class Samples(Callback):
    """Samples in every hook of a training step and records what has changed."""

    def __init__(self) -> None:
        self.changed: list[str] = []
        self.calls = dict.fromkeys(HOOKS, 0)

    def watch(self, hook: str, module: LightningModule) -> None:
        assert isinstance(module, DiffusionModule)
        before = state_of(module)
        for use_ema in (True, False):
            sixteen(module, use_ema=use_ema, guidance_scale=2.0, class_labels=[0, 1, 2, 0] * 4)
            module.sampler.sample(num_samples=2)  # with a seed from the system
        self.changed += [f"{name} in {hook}" for name in differing(before, state_of(module))]
        self.calls[hook] += 1

    def __getattribute__(self, name: str) -> Any:
        if name in HOOKS:
            return lambda trainer, module, *_: self.watch(name, module)
        return super().__getattribute__(name)


def state_of(module: DiffusionModule) -> dict[str, Any]:
    return {
        **{f"weight {name}": value.clone() for name, value in module.state_dict().items()},
        **{f"mode of {name}": part.training for name, part in module.named_modules()},
        **{f"gradient of {name}": copy.deepcopy(weight.grad) for name, weight in module.named_parameters()},
        **{f"whether {name} is trained": weight.requires_grad for name, weight in module.named_parameters()},
        "torch's generator": torch.get_rng_state(),
        "Python's generator": random.getstate(),
        "NumPy's generator": np.random.get_state()[1].tolist(),  # type: ignore[union-attr]
        "whether gradients are computed": torch.is_grad_enabled(),
        "whether autocast is on": torch.is_autocast_enabled("cpu"),
        "type to compute in": module.denoiser.compute_dtype,
    }


def differing(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    assert before.keys() == after.keys()
    return [
        name
        for name, value in before.items()
        if not (torch.equal(value, after[name]) if isinstance(value, torch.Tensor) else value == after[name])
    ]


class Compiled(Callback):
    """Runs the network as torch.compile traces it, without a compiler."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, DiffusionModule)
        reset_compiler()
        compile_in_place(pl_module.denoiser.network, backend="eager")


@pytest.mark.parametrize("way", ["float32", "bfloat16", "compiled"])
def test_during_training_it_changes_nothing(way: str, tmp_path: Path) -> None:
    """In every hook; training is bitwise equal to training without it."""
    changes = {"training.performance.precision": "bf16"} if way == "bfloat16" else {"training.epochs": 1}
    first: list[Callback] = [Compiled()] if way == "compiled" else []
    _, plain = tiny_fit(tmp_path, [*first, EMACallback()], changes)
    samples = Samples()
    trainer, module = tiny_fit(tmp_path, [*first, EMACallback(), samples], changes)
    assert samples.changed == []
    assert all(samples.calls.values())
    assert samples.calls["on_train_batch_end"] == trainer.global_step
    assert differing(plain.state_dict(), module.state_dict()) == []


class Follows(Callback):
    """Compares the sampler after each step with one of copies of the weights and the EMA at that step."""

    def __init__(self) -> None:
        self.seen: list[Images] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        assert isinstance(pl_module, DiffusionModule)
        assert pl_module.ema is not None
        for use_ema, model in ((True, pl_module.ema.average), (False, pl_module.denoiser)):
            expected = DiffusionSampler(copy.deepcopy(model)).sample(16, seed=0, sampler=QUICK)
            assert torch.equal(sixteen(pl_module, use_ema=use_ema), expected)
        self.seen.append(sixteen(pl_module))


def test_during_training_it_uses_the_current_average(tmp_path: Path) -> None:
    follows = Follows()
    _, module = tiny_fit(tmp_path, [EMACallback(), follows], {"training.ema.decay": 0.5})
    assert len(follows.seen) > 2
    assert not any(torch.equal(one, other) for one, other in zip(follows.seen, follows.seen[1:], strict=False))
    assert module.ema is not None
    assert module.sampler.ema is module.ema.average
    assert module.sampler.model is module.denoiser


def test_the_average_is_updated_with_any_trainer(tmp_path: Path) -> None:
    _, module = tiny_fit(tmp_path / "without", [], {"training.ema.decay": 0.5})
    _, same = tiny_fit(tmp_path / "with", [EMACallback()], {"training.ema.decay": 0.5})
    assert module.ema is not None
    assert int(module.ema.updates) == module.trainer.global_step > 0
    assert torch.equal(sixteen(module), sixteen(same))
    assert not torch.equal(sixteen(module), sixteen(module, use_ema=False))


def test_after_training_and_without_an_average(tmp_path: Path) -> None:
    _, module = tiny_fit(tmp_path, [], {"training.ema.enabled": False})
    assert torch.equal(sixteen(module), DiffusionSampler(module.denoiser).sample(16, seed=0, sampler=QUICK))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run of two epochs."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    tiny_run(folder, {"training.ema.further_decays": [0.5], "training.checkpointing.save_frequency": 1})
    return folder


def test_after_loading_a_checkpoint(run: Path) -> None:
    module = DiffusionModule.load_from_checkpoint(run)
    for use_ema in (True, False):
        expected = DiffusionSampler(load_denoiser(run, use_ema)).sample(16, seed=0, sampler=QUICK)
        assert torch.equal(sixteen(module, use_ema=use_ema), expected)
    assert module.training
    assert module.denoiser.class_names == ("low", "middle", "high")


def test_a_loaded_module_continues_like_the_run_itself(tmp_path: Path, run: Path) -> None:
    changes = {"training.ema.further_decays": [0.5], "training.epochs": 3, "compute.threads": 1}
    tiny_run(tmp_path / "longer", changes)
    checkpoint = find_checkpoint(run, "last")
    module = DiffusionModule.load_from_checkpoint(checkpoint)
    data = create_datamodule(tiny_config(tmp_path, changes), seed=0)
    trainer = tiny_trainer(tmp_path, [EMACallback()], changes)
    with use_threads(1):  # sums of other parts round differently
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    longer = DiffusionModule.load_from_checkpoint(find_checkpoint(tmp_path / "longer", "last"))
    assert differing(longer.state_dict(), module.state_dict()) == []
    sixteen(module)


def test_a_module_from_settings_is_trained_by_a_custom_trainer(tmp_path: Path) -> None:
    """Also with a schedule by steps, whose number only the trainer knows."""
    changes = {"training.scheduler": {"type": "warmup_cosine", "warmup_steps": 1}, "training.epochs": 2}
    module = DiffusionModule.from_settings(tiny_tree(tmp_path, changes))
    config = tiny_config(tmp_path, changes)
    before = sixteen(module)
    trainer = Trainer(
        max_epochs=2, callbacks=[EMACallback()], logger=False, accelerator="cpu", default_root_dir=tmp_path
    )
    trainer.fit(module, datamodule=create_datamodule(config, seed=0))
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0, abs=1e-9)
    assert not torch.equal(sixteen(module), before)
    trainer.save_checkpoint(tmp_path / "own.ckpt")
    loaded = DiffusionSampler(load_denoiser(tmp_path / "own.ckpt")).sample(16, seed=0, sampler=QUICK)
    assert torch.equal(loaded, sixteen(module))


class Recording(DiffusionModule):
    """Counts accesses to the sampler."""

    asked = 0

    @property
    def sampler(self) -> DiffusionSampler:
        type(self).asked += 1
        return super().sampler


def test_the_sample_images_of_a_run_use_it(tmp_path: Path) -> None:
    pictures = SampleImages(tmp_path / "pictures", QUICK, every_epochs=1, num_samples=3, guidance_scale=2.0, seed=0)
    module = Recording.from_settings(tiny_tree(tmp_path))
    assert isinstance(module, Recording)
    tiny_trainer(tmp_path, [pictures]).fit(module, datamodule=create_datamodule(tiny_config(tmp_path), seed=0))
    assert Recording.asked == 2
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == ["epoch_0001.png", "epoch_0002.png"]


def test_there_is_no_generate_samples() -> None:
    """Only the sampler samples."""
    for folder in ("diffusion_lab", "conf", "scripts"):
        files = [file for kind in ("*.py", "*.yaml") for file in (ROOT / folder).rglob(kind)]
        assert files
        assert not any("generate_samples" in file.read_text(encoding="utf-8") for file in files)
    for kind in (DiffusionModule, DiffusionSampler, Trainer):
        assert not hasattr(kind, "generate_samples")


def test_one_batch() -> None:
    sampler = DiffusionSampler(model=tiny_denoiser(), device="cpu")
    batch = sampler.sample_batch(5, class_labels=[0, 1, 2, 0, 1], guidance_scale=2.0, seed=3, sampler=QUICK)
    assert isinstance(batch, SampleBatch)
    assert (batch.first, batch.labels) == (0, [0, 1, 2, 0, 1])
    assert torch.equal(batch.images, sampler.sample(5, [0, 1, 2, 0, 1], 2.0, seed=3, sampler=QUICK))
    (streamed,) = sampler.stream(5, [0, 1, 2, 0, 1], 2.0, seed=3, sampler=QUICK)
    assert torch.equal(streamed.images, batch.images)
    assert (streamed.first, streamed.labels) == (batch.first, batch.labels)


def test_initial_noise() -> None:
    sampler = DiffusionSampler(tiny_denoiser())
    noise = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(5))
    images = sampler.sample(6, noise=noise, sampler=QUICK)
    assert torch.equal(images, sampler.sample(6, noise=noise.clone(), sampler=QUICK))
    assert torch.equal(sampler.sample_batch(6, noise=noise, sampler=QUICK).images, images)
    for batch_size in (1, 4):  # other batches of a convolution round otherwise
        parts = [batch.images for batch in sampler.stream(6, noise=noise, sampler=QUICK, batch_size=batch_size)]
        torch.testing.assert_close(torch.cat(parts), images, rtol=0, atol=1e-3)
    stochastic = [sampler.sample(6, noise=noise, sampler=DDPMSampler(steps=4), seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(stochastic[0], stochastic[1])
    assert not torch.equal(stochastic[0], stochastic[2])


def test_the_documented_order_of_create_ddpm() -> None:
    given = (16, 1, 8, [1, 2], 3, 50, "linear", 0.001, 0.3, 0.25, [False, True], "cpu")
    model = create_ddpm(*given)
    assert model.image_shape == (1, 16, 16)
    assert (model.num_classes, model.label_dropout) == (3, 0.25)
    assert model.schedule.most_steps == 50
    assert model.schedule.betas[[0, -1]].tolist() == pytest.approx([0.001, 0.3])  # type: ignore[attr-defined]
    named = dict(
        zip(
            (
                *("image_size", "in_channels", "model_channels", "channel_multipliers", "num_classes", "num_timesteps"),
                *("beta_schedule", "beta_start", "beta_end", "class_dropout_prob", "use_attention", "device"),
            ),
            given,
            strict=True,
        )
    )
    same = create_ddpm(**named)  # type: ignore[arg-type]
    assert {name: weight.shape for name, weight in same.state_dict().items()} == {
        name: weight.shape for name, weight in model.state_dict().items()
    }
    with pytest.raises(TypeError, match="positional"):
        create_ddpm(*given, "unet")  # type: ignore[misc]
