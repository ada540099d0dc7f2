from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from diffusion_lab.denoiser import Denoiser
from diffusion_lab.diffusion.loss import DenoisingLoss
from diffusion_lab.ema import EMA
from diffusion_lab.metric_names import NOISE_BANDS
from diffusion_lab.shapes import Batch
from diffusion_lab.training.module import DiffusionModule
from tests.training.tiny import tiny_denoiser


def module_of(denoiser: Denoiser, ema: EMA | None = None) -> DiffusionModule:
    module = DiffusionModule(
        denoiser, DenoisingLoss(), lambda weights: torch.optim.SGD(weights, lr=0.1), lambda _: None, ema
    )
    module.log = lambda *_, **__: None  # type: ignore[method-assign]  # there is no trainer to log to
    return module


def batch(seed: int) -> Batch:
    images = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(9)) * 2 - 1
    return Batch(images, torch.tensor([0, 1, 2, 0]), seed)


def validation_loss(module: DiffusionModule, batch: Batch) -> Tensor:
    logged: dict[str, Tensor] = {}
    module.log = lambda name, value, **_: logged.update({name: value})  # type: ignore[method-assign]
    module.validation_step(batch, 0)
    return logged["val/loss"]


def test_training_and_validation_share_one_step() -> None:
    module = module_of(tiny_denoiser())
    assert torch.equal(module.training_step(batch(3), 0), validation_loss(module, batch(3)))


def test_loss_is_logged_by_noise_level() -> None:
    """The bands' means, weighted by their numbers of images, make the mean of all."""
    module = module_of(tiny_denoiser())
    logged: dict[str, tuple[Tensor, int]] = {}
    module.log = lambda name, value, batch_size: logged.update({name: (value, batch_size)})  # type: ignore[assignment, misc]
    module.validation_step(batch(3), 0)
    total, count = logged.pop("val/loss")
    assert set(logged) <= {f"val/loss_at_{band}_noise" for band in NOISE_BANDS}
    assert sum(number for _, number in logged.values()) == count == 4
    torch.testing.assert_close(sum(mean * number for mean, number in logged.values()) / count, total)


def test_loss_follows_from_the_seed_of_the_batch_alone() -> None:
    module = module_of(tiny_denoiser())
    torch.manual_seed(1)
    first = module.training_step(batch(3), 0)
    torch.manual_seed(2)
    assert torch.equal(module.training_step(batch(3), 7), first)
    assert not torch.equal(module.training_step(batch(4), 0), first)


def test_dropout_differs_between_batches_and_is_fixed_for_one_batch() -> None:
    denoiser = tiny_denoiser().train()
    for part in denoiser.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.5
    module = module_of(denoiser)
    loss = module.training_step(batch(3), 0)
    assert torch.equal(module.training_step(batch(3), 0), loss)
    denoiser.eval()
    assert not torch.equal(module.training_step(batch(3), 0), loss)


def test_validation_uses_the_ema() -> None:
    denoiser = tiny_denoiser()
    ema = EMA(denoiser, decay=0.9)
    module = module_of(denoiser, ema)
    before = validation_loss(module, batch(3))
    for parameter in denoiser.parameters():
        parameter.data += 0.1
    assert torch.equal(validation_loss(module, batch(3)), before)
    ema.update(denoiser)
    assert not torch.equal(validation_loss(module, batch(3)), before)


def test_only_the_denoiser_is_optimized() -> None:
    denoiser = tiny_denoiser()
    module = module_of(denoiser, EMA(denoiser, decay=0.9))
    optimizer: Any = module.configure_optimizers()
    optimized = {id(weight) for group in optimizer.param_groups for weight in group["params"]}
    assert optimized == {id(weight) for weight in denoiser.parameters()}


def test_training_imports_no_sampling() -> None:
    training = Path(__file__).parents[2] / "diffusion_lab" / "training"
    sources = [file.read_text() for file in training.rglob("*.py")]
    assert sources
    assert not any("generate_samples" in source for source in sources)
    assert not hasattr(DiffusionModule, "generate_samples")
    assert issubclass(DiffusionModule, LightningModule)
