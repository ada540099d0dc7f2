"""Checkpoints as plain containers, of every kind that is written."""

from __future__ import annotations

import torch

from diffusion_lab.checkpoint import FORMAT
from diffusion_lab.config import get_default_config
from diffusion_lab.config.model_section import ModelSettings
from diffusion_lab.config.validate import parse_section
from diffusion_lab.create import create_denoiser


def tree(**architecture):
    model = get_default_config()["model"]
    model["architecture"] |= {
        "image_size": 8,
        "in_channels": 1,
        "model_channels": 8,
        "channel_multipliers": [1],
        "use_attention": [False],
        "num_res_blocks": 1,
    } | architecture
    model["diffusion"] |= {"num_timesteps": 20, "prediction": "v"}
    model["conditioning"] |= {"type": "class", "num_classes": 2}
    return model


def settings(**architecture) -> ModelSettings:
    return parse_section(ModelSettings, tree(**architecture), "model")


def denoiser_of(seed: int):
    torch.manual_seed(seed)
    return create_denoiser(settings(), ("cat", "dog"))


RAW, AVERAGED, SLOWER, SLOWEST = (denoiser_of(seed) for seed in range(4))


def under(prefix, weights):
    return {prefix + name: tensor for name, tensor in weights.items()}


def own_format(model=None, averaged=AVERAGED, **metadata):
    state = under("denoiser.", RAW.state_dict())
    if averaged is not None:
        state |= under("ema.average.", averaged.state_dict()) | {"ema.updates": torch.tensor(5)}
    own = {"format": FORMAT, "config": {"model": model or tree(), "experiment": "cats"}}
    own |= {"class_names": ["cat", "dog"], "step": 70, "epoch": 3}
    return {"state_dict": state, "diffusion_lab": own | metadata, "optimizer_states": [{"state": {}}]}


def same(denoiser, other) -> bool:
    pairs = zip(denoiser.state_dict().items(), other.state_dict().items(), strict=True)
    return all(name == other_name and torch.equal(one, two) for (name, one), (other_name, two) in pairs)
