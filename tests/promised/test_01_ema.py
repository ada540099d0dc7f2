"""Recipe of a custom training loop: train a model, update an EMA, sample from either."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from diffusion_lab import EMA, DiffusionSampler, create_ddpm
from diffusion_lab.denoiser import Denoiser
from diffusion_lab.samplers import DDIMSampler

TWO_STEPS: dict[str, Any] = {"sampler": DDIMSampler(steps=2), "seed": 0}


def tiny_model(num_classes: int | None = 3, image_size: int = 8) -> Denoiser:
    torch.manual_seed(0)
    model = create_ddpm(
        image_size=image_size,
        in_channels=1,
        model_channels=8,
        channel_multipliers=[1],
        use_attention=[False],
        num_classes=num_classes,
    )
    for parameter in model.parameters():  # the last layers begin as zero, and then all models sample alike
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model


def train_steps(model: Denoiser, ema: EMA[Denoiser], steps: int) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for step in range(steps):
        level = model.schedule.level(0.5)
        images = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(step))
        loss = (model(images, level, torch.tensor([0, 1, 2, 0])) - images).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        ema.update()


def test_the_recipe_runs_unchanged() -> None:
    device = "cpu"
    model = tiny_model()
    ema = EMA(model, decay=0.9999, device=device)
    train_steps(model, ema, 3)
    sampler = DiffusionSampler(model=model, device=device, ema=ema)
    averaged = sampler.sample(num_samples=2, class_labels=[0, 1], use_ema=True, **TWO_STEPS)
    raw = sampler.sample(num_samples=2, class_labels=[0, 1], use_ema=False, **TWO_STEPS)
    assert averaged.shape == raw.shape == (2, 1, 8, 8)
    assert not torch.equal(averaged, raw)
    assert torch.equal(averaged, DiffusionSampler(ema.average).sample(2, [0, 1], **TWO_STEPS))


def test_a_sampler_created_before_training_uses_the_current_ema() -> None:
    model = tiny_model()
    ema = EMA(model, decay=0.5)
    sampler = DiffusionSampler(model, ema=ema)
    before = sampler.sample(1, [0], **TWO_STEPS)
    train_steps(model, ema, 2)
    after = sampler.sample(1, [0], **TWO_STEPS)
    assert not torch.equal(before, after)
    assert torch.equal(after, DiffusionSampler(model, ema=ema.average).sample(1, [0], **TWO_STEPS))


def test_saving_loading_applying_and_restoring(tmp_path: Any) -> None:
    model = tiny_model()
    ema = EMA(model, decay=0.9)
    train_steps(model, ema, 2)
    torch.save(ema.state_dict(), tmp_path / "ema.pt")
    again = EMA(tiny_model(), decay=0.9)
    again.load_state_dict(torch.load(tmp_path / "ema.pt", weights_only=True))
    for one in (ema, again):
        one.update(model)
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in ema.state_dict().items())

    trained = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    ema.apply_shadow()
    assert all(torch.equal(tensor, ema.average.state_dict()[name]) for name, tensor in model.state_dict().items())
    ema.restore()
    with ema.average_parameters():
        assert not torch.equal(next(model.parameters()), next(iter(trained.values())))
    assert all(torch.equal(tensor, trained[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("ema", "got"),
    [({"decay": 0.9}, "dict"), (0.9999, "float"), (True, "bool"), (torch.nn.Linear(1, 1), "Linear"), ("ema.pt", "str")],
)
def test_a_wrong_object_for_ema_is_refused_at_construction_by_name(ema: Any, got: str) -> None:
    with pytest.raises(TypeError, match=rf"^ema must be an EMA of a Denoiser.*got {got}$"):
        DiffusionSampler(model=tiny_model(), device="cpu", ema=ema)


def test_an_ema_of_something_else_is_refused_by_name() -> None:
    model = tiny_model()
    with pytest.raises(TypeError, match=r"^ema must be .* got an EMA of a UNet$"):
        DiffusionSampler(model=model, ema=EMA(model.network))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^ema must be of the model: its num_classes is None, that of the model 3"):
        DiffusionSampler(model=model, ema=EMA(tiny_model(num_classes=None)))
    with pytest.raises(ValueError, match=r"^ema must be of the model: its image_shape is \(1, 16, 16\)"):
        DiffusionSampler(model=model, ema=tiny_model(image_size=16))


def test_a_wrong_object_for_model_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match=r"^model must be a Denoiser, as create_ddpm .* got str$"):
        DiffusionSampler(model="best.ckpt")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^model must be a torch.nn.Module, .* got dict$"):
        EMA({}, decay=0.9)  # type: ignore[type-var]
