"""Common names of other programs suggest the full path of the corresponding key."""

from __future__ import annotations

import pytest

from diffusion_lab.config import ConfigError, parse_config
from diffusion_lab.config.schema import GenerateConfig, TrainConfig, suggest_key
from diffusion_lab.faults.key_aliases import ALIASES
from diffusion_lab.typed_settings.settings_reader import known_keys
from tests.config.conftest import Change


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("training.batch_size", "data.loading.batch_size"),
        ("batch_size", "data.loading.batch_size"),
        ("data.batch_size", "data.loading.batch_size"),
        ("generation.batch_size", "generation.sampling.batch_size"),
        ("lr", "training.optimizer.learning_rate"),
        ("training.lr", "training.optimizer.learning_rate"),
        ("optimizer.lr", "training.optimizer.learning_rate"),
        ("LR", "training.optimizer.learning_rate"),
        ("steps", "sampler.steps or model.diffusion.num_timesteps"),
        ("model.steps", "model.diffusion.num_timesteps"),
        ("sampler.num_steps", "sampler.steps"),
        ("devices", "compute.device"),
        ("training.devices", "compute.device"),
        ("max_epochs", "training.epochs"),
        ("ema_decay", "training.ema.decay"),
        ("precision", "training.performance.precision"),
        ("num-workers", "data.loading.num_workers"),
        ("training.ema.deacy", "training.ema.decay"),
        ("guidance_scale", "training.visualization.guidance_scale"),
        ("ckpt", "training.resume.checkpoint"),
    ],
)
def test_of_a_training_run(typed: str, expected: str) -> None:
    assert suggest_key(typed, TrainConfig) == expected


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("batch_size", "generation.sampling.batch_size"),
        ("steps", "sampler.steps"),
        ("num_inference_steps", "sampler.steps"),
        ("cfg_scale", "generation.sampling.guidance_scale"),
        ("devices", "compute.device"),
    ],
)
def test_of_a_generation_run(typed: str, expected: str) -> None:
    assert suggest_key(typed, GenerateConfig) == expected


def test_the_keys_exist_and_their_names_are_not_aliases_of_others() -> None:
    keys = {*known_keys(TrainConfig)}
    assert set(ALIASES) <= keys
    for key, names in ALIASES.items():
        assert all(name == name.lower() and "-" not in name for name in names)
        assert suggest_key(names[0], TrainConfig), key


def test_both_keys_are_in_the_message(changed: Change) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(changed({"steps": 10, "optimizer": {"lr": 1.0}}))
    message = str(caught.value)
    assert "steps = 10: unknown key (did you mean 'sampler.steps' or 'model.diffusion.num_timesteps'?)" in message
    assert """optimizer.lr = 1.0: unknown key (did you mean 'training.optimizer.learning_rate'?)""" in message


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("learnin_rate", "training.optimizer.learning_rate"),
        ("training.learnin_rate", "training.optimizer.learning_rate"),
        ("stesp", "sampler.steps"),
        ("imagesize", "model.architecture.image_size"),
        ("data.loadng.batch_size", "data.loading.batch_size"),
        ("data.loading.batchsize", "data.loading.batch_size"),
        ("trainin.epochs", "training.epochs"),
        ("output.subdirs.checkpoint", "output.subdirs.checkpoints"),
        ("xyzzy", None),
    ],
)
def test_a_misspelled_name_suggests_the_full_key(typed: str, expected: str | None) -> None:
    assert suggest_key(typed, TrainConfig) == expected


def test_every_suggestion_is_an_existing_key() -> None:
    keys = {*known_keys(TrainConfig)}
    for key in keys:
        suggestion = suggest_key(f"{key[:-1]}", TrainConfig)
        assert suggestion is None or set(suggestion.split(" or ")) <= keys, key
