"""The adapter of docs/extending.md for a network of another library."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch

from diffusion_lab import DiffusionSampler
from diffusion_lab.config import get_default_config
from diffusion_lab.config.model_section import ModelSettings
from diffusion_lab.config.validate import parse_section
from diffusion_lab.create import create_denoiser
from diffusion_lab.diffusion.loss import DenoisingLoss
from tests.docs.blocks import blocks


@pytest.fixture
def adapters(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Module with the code of the page, as if it were in a file."""
    pytest.importorskip("diffusers", reason="needs the extra 'peers'")
    (block,) = [block for block in blocks() if block.adds == "my_lab/adapters.py"]
    module = ModuleType("adapters_of_the_page")
    exec(block.text, vars(module))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


@pytest.mark.parametrize("classes", [None, 3])
def test_a_network_of_diffusers_is_trained_and_sampled(adapters: ModuleType, classes: int | None) -> None:
    model = get_default_config()["model"]
    options = {"image_size": 8, "in_channels": 1, "widths": [32, 64], "layers_per_block": 1}
    model["architecture"] = {"type": f"{adapters.__name__}.DiffusersUNet", **options}
    if classes is not None:
        model["conditioning"] |= {"type": "class", "num_classes": classes}
    denoiser = create_denoiser(parse_section(ModelSettings, model, "model", import_classes=True))
    images, labels = torch.randn(4, 1, 8, 8), None if classes is None else torch.tensor([0, 1, 2, 0])
    DenoisingLoss()(denoiser, images, labels, seed=0).backward()
    gradients = [weight.grad for weight in denoiser.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
    samples = DiffusionSampler(denoiser).sample(
        2, None if classes is None else [0, 2], seed=0, sampler={"type": "ddim", "steps": 2}
    )
    assert samples.shape == (2, 1, 8, 8)
