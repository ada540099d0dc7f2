"""Annotations of tensors are checked in the tests: element types, axes, and sizes that must agree."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from jaxtyping import Float, TypeCheckError
from torch import Tensor

from diffusion_lab import create_ddpm
from diffusion_lab.diffusion.draws import draw_for_batch
from diffusion_lab.diffusion.schedules import linear_betas
from diffusion_lab.guidance import ClassifierFreeGuidance
from diffusion_lab.networks.blocks import attention, flatten_positions
from diffusion_lab.shapes import Images, Labels, from_pixels, per_image
from tests.tensor_annotations import checked

IMAGES, LABELS = torch.zeros(2, 1, 8, 8), torch.tensor([0, 1])


@pytest.fixture(scope="module")
def model() -> Any:
    tiny = {
        "image_size": 8,
        "in_channels": 1,
        "model_channels": 8,
        "channel_multipliers": [1],
        "use_attention": [False],
    }
    return create_ddpm(**tiny, num_classes=2)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("noisy", "label", "argument"),
    [
        (IMAGES[0], LABELS, "noisy"),
        (IMAGES.int(), LABELS, "noisy"),
        (IMAGES, LABELS[:1], "label"),
        (IMAGES, LABELS.float(), "label"),
        (IMAGES, LABELS[:, None], "label"),
    ],
)
def test_wrong_tensors_of_a_method_are_found(model: Any, noisy: Tensor, label: Tensor, argument: str) -> None:
    with pytest.raises(TypeCheckError, match=f"parameter '{argument}'"):
        model.predict(noisy, model.schedule.level(0.5), label)
    with pytest.raises(TypeCheckError, match=f"parameter '{argument}'"):
        ClassifierFreeGuidance(model, torch.tensor(2.0))(noisy, model.schedule.level(0.5), label)


@pytest.mark.parametrize(
    "call",
    [
        lambda: from_pixels(IMAGES),
        lambda: per_image(torch.zeros(3), IMAGES),
        lambda: draw_for_batch(IMAGES[0], 0, stratified=True),
        lambda: flatten_positions(IMAGES[0]),
        lambda: attention(IMAGES, 1),
    ],
)
def test_wrong_tensors_of_a_function_are_found(call: Any) -> None:
    with pytest.raises(TypeCheckError, match="Type-check error whilst checking the parameters of diffusion_lab"):
        call()


def test_a_wrong_result_is_found() -> None:
    @checked
    def transposed(images: Images, labels: Labels | None = None) -> Images:
        return images.transpose(2, 3)

    square, wide = torch.zeros(2, 1, 8, 8), torch.zeros(2, 1, 8, 4)
    for _ in range(2):  # tensors of shapes that were checked before, and of others
        assert transposed(square).shape == square.shape
        with pytest.raises(TypeCheckError, match="return value"):
            transposed(wide)
        with pytest.raises(TypeCheckError, match="'labels'"):
            transposed(square, torch.zeros(3, dtype=torch.int64))


def test_functions_without_tensors_are_unchanged() -> None:
    def double(value: int) -> int:
        return 2 * value

    assert checked(double) is double
    assert not hasattr(linear_betas(3, 0.1, 0.2), "__wrapped__")
    assert isinstance(torch.zeros(3), Float[Tensor, " n"])


def test_every_function_on_tensors_names_their_axes() -> None:
    """Public functions of the mathematics; plain tensors are those of any shape."""
    from diffusion_lab.diffusion import draws, loss, noise_bands, schedules, time_distribution, weighting
    from diffusion_lab.networks import dit, image_network, unet

    modules: list[ModuleType] = [draws, loss, noise_bands, schedules, time_distribution, weighting, dit, image_network]
    plain = [
        f"{module.__name__}.{function.__qualname__}: {name}"
        for module in [*modules, unet]
        for owner in (module, *(value for value in vars(module).values() if isinstance(value, type)))
        for function in vars(owner).values()
        if callable(function) and getattr(function, "__module__", None) == module.__name__
        for name, hint in getattr(function, "__annotations__", {}).items()
        if not getattr(function, "__name__", "_").startswith("_") and hint in ("Tensor", "Tensor | None")
    ]
    assert plain == []
