"""Warnings that need the images, raised before training begins."""

from __future__ import annotations

import math
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose

from diffusion_lab.cli.compose import compose_train_config
from diffusion_lab.cli.hydra_app import initialized_hydra
from diffusion_lab.config import ConfigWarning
from diffusion_lab.create import create_denoiser, create_process
from diffusion_lab.ema import EMA
from diffusion_lab.sampling.terminal_noise import terminal_noise_warnings
from diffusion_lab.training.create import create_loss, run_length
from diffusion_lab.training.sources import create_datamodule
from diffusion_lab.training.suspicious_settings import (
    batch_warnings,
    ema_warnings,
    weighting_warnings,
)
from tests.recorded_warnings import recorded_warnings
from tests.training.tiny import tiny_config, tiny_denoiser, tiny_run

# 18 images are left to train on.
DROP = {"data.loading.drop_last": True}


def about_batches(folder: Path, **loading: Any) -> list[str]:
    changes = {f"data.loading.{name}": value for name, value in loading.items()}
    return list(batch_warnings(create_datamodule(tiny_config(folder, changes), seed=0)))


def about_ema(decay: float, steps: int, warmup: bool = False, further: tuple[float, ...] = ()) -> list[str]:
    return list(ema_warnings(EMA(tiny_denoiser(), decay, warmup=warmup, further_decays=further), steps))


@pytest.mark.parametrize(("batch_size", "left_out"), [(8, 2), (5, 3), (10, 8), (7, 4)])
def test_large_dropped_batch(tmp_path: Path, batch_size: int, left_out: int) -> None:
    (message,) = about_batches(tmp_path, batch_size=batch_size, drop_last=True)
    assert message.startswith(f"data.loading.drop_last skips {left_out} of 18 images in each epoch, others each time")
    assert f"the last batch of {batch_size} is not full" in message


def test_images_that_are_never_seen(tmp_path: Path) -> None:
    (message,) = about_batches(tmp_path, batch_size=10, drop_last=True, shuffle_train=False)
    assert "always the same" in message


@pytest.mark.parametrize(
    "loading",
    [
        {"batch_size": 10},
        {"batch_size": 6, "drop_last": True},
        {"batch_size": 17, "drop_last": True},  # one of eighteen
    ],
)
def test_no_warning_about_few_dropped_images(tmp_path: Path, loading: dict[str, Any]) -> None:
    assert about_batches(tmp_path, **loading) == []


@pytest.mark.parametrize("steps", [6, 40, 1000, 13862])
def test_ema_that_still_holds_the_untrained_weights(steps: int) -> None:
    """13862 steps of 0.9999 leave a quarter: log(0.25) / log(0.9999) = 13862.25."""
    (message,) = about_ema(0.9999, steps)
    assert f"training.ema.decay = 0.9999 is too slow for the {steps} optimizer steps" in message
    assert f": {0.9999**steps:.0%} of the average" in message
    better = float(re.findall(r"at most (\S+),", message)[0])
    assert better**steps < 0.01
    assert about_ema(better, steps) == []


def test_few_steps_need_warmup() -> None:
    (message,) = about_ema(0.9999, 1)
    assert "for the 1 optimizer step of this run: 100% of" in message
    assert message.endswith("untrained weights; set training.ema.warmup=true")


@pytest.mark.parametrize(("decay", "steps"), [(0.9999, 13863), (0.9999, 10**5), (0.5, 2), (0.0, 1)])
def test_ema_that_has_forgotten_the_untrained_weights(decay: float, steps: int) -> None:
    assert about_ema(decay, steps) == []


@pytest.mark.parametrize("steps", [1, 2, 100])
def test_ema_with_warmup_forgets_at_once(steps: int) -> None:
    assert about_ema(0.9999, steps, warmup=True) == []


def test_each_average_is_checked() -> None:
    keys = [message.partition(" = ")[0] for message in about_ema(0.9999, 100, further=(0.5, 0.999))]
    assert keys == ["training.ema.decay", "training.ema.further_decays[1]"]


@pytest.mark.parametrize(("steps", "same"), [(80, 2), (81, 1), (8989, 1), (8991, 0)])
def test_averages_that_are_equal_because_of_warmup(steps: int, same: int) -> None:
    """At update n the decay is at most (1 + n) / (10 + n): 0.9 at 80, 0.999 at 8,990."""
    messages = about_ema(0.999, steps, warmup=True, further=(0.9999, 0.9001))
    keys = ["training.ema.decay", "training.ema.further_decays[0]", *["training.ema.further_decays[1]"] * (same == 2)]
    expected = f"{', '.join(keys)} give the same average: with training.ema.warmup the decay rises only to "
    assert len(messages) == bool(same)
    assert all(
        message.startswith(expected + f"{(1 + steps) / (10 + steps):.4g} in the {steps} ") for message in messages
    )


@pytest.mark.parametrize("warmup", [True, False])
def test_initial_share_is_the_weight_of_the_start_in_the_average(warmup: bool) -> None:
    """The average starts at one and is updated with zeros."""
    denoiser = tiny_denoiser()
    for tensor in denoiser.parameters():
        torch.nn.init.ones_(tensor)
    ema = EMA(denoiser, 0.7, warmup=warmup)
    for tensor in denoiser.parameters():
        torch.nn.init.zeros_(tensor)
    for update in range(9):
        weight = next(ema.average.parameters()).flatten()[0]
        assert float(weight) == pytest.approx(ema.initial_weight(update, 0.7), rel=1e-5)
        ema.update(denoiser)
    if not warmup:
        assert ema.initial_weight(9, 0.7) == pytest.approx(math.pow(0.7, 9))


def test_steps_are_those_of_the_run(tmp_path: Path) -> None:
    changes = {"data.loading.batch_size": 5, "training.accumulate_batches": 3, "training.epochs": 2}
    config = tiny_config(tmp_path, changes)
    assert run_length(config, create_datamodule(config, seed=0)).steps == 4
    assert tiny_run(tmp_path, changes).steps == 4


def test_run_warns_before_it_trains(tmp_path: Path) -> None:
    changes = {"training.ema.warmup": False, "data.loading.batch_size": 10, **DROP}
    with recorded_warnings() as caught:
        tiny_run(tmp_path, changes)
    texts = [str(warning.message) for warning in caught if issubclass(warning.category, ConfigWarning)]
    assert [text.split(" ")[0] for text in texts] == ["data.loading.drop_last", "training.ema.decay"]
    assert "for the 2 optimizer steps of this run: 100% of" in texts[1]


def test_run_warns_of_optimizer_steps_longer_than_an_epoch(tmp_path: Path) -> None:
    changes = {"data.loading.batch_size": 6, "training.epochs": 2}
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*accumulate_batches")
        assert tiny_run(tmp_path / "fits", {**changes, "training.accumulate_batches": 3}).steps == 2
    expected = (
        r"training\.accumulate_batches = 2000000000 is more than the 3 batches of an epoch: .* makes a single one"
    )
    with pytest.warns(ConfigWarning, match=expected):
        assert tiny_run(tmp_path / "beyond", {**changes, "training.accumulate_batches": 2_000_000_000}).steps == 2


def test_no_warning_without_an_ema(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConfigWarning)
        tiny_run(tmp_path, {"training.ema.enabled": False, "training.ema.warmup": False})


@pytest.mark.parametrize("experiment", ["digits", "emoji"])
def test_recipes_with_bundled_images_give_no_warning(experiment: str) -> None:
    with initialized_hydra("app", Path(__file__).parents[2] / "conf"):
        config = compose_train_config(compose("train", [f"experiment={experiment}"]))
    data = create_datamodule(config, seed=0)
    assert data.drop_last
    assert list(batch_warnings(data)) == []
    steps = run_length(config, data).steps
    assert about_ema(config.training.ema.decay, steps, config.training.ema.warmup) == []


def about_the_end(folder: Path, **diffusion: Any) -> list[str]:
    changes = {f"model.diffusion.{name}": value for name, value in {"prediction": "v", **diffusion}.items()}
    config = tiny_config(folder, changes)
    return list(terminal_noise_warnings(create_process(config.model.diffusion), config.model.diffusion))


def test_short_process_that_does_not_end_in_noise(tmp_path: Path) -> None:
    """100 steps of the betas of 1000: alpha² is the product of 1 - beta, 0.364."""
    (message,) = about_the_end(tmp_path, num_timesteps=100, beta_schedule="linear")
    assert "ends with alpha = 0.6 of the image left (alpha_bar = 0.36)" in message
    suggested = dict(re.findall(r"model\.diffusion\.(beta_\w+)=([\d.]+)", message))
    assert suggested == {"beta_start": "0.001", "beta_end": "0.2"}
    betas = {name: float(value) for name, value in suggested.items()}
    assert about_the_end(tmp_path, num_timesteps=100, beta_schedule="linear", **betas) == []


@pytest.mark.parametrize(
    ("diffusion", "instead"),
    [
        ({"num_timesteps": 10, "beta_schedule": "linear"}, "take more steps, a larger model.diffusion.beta_end, or "),
        ({"num_timesteps": 1000, "beta_schedule": "linear", "beta_end": 0.002}, "take more steps, a larger "),
        ({"type": "edm", "sigma_max": 5.0}, "raise model.diffusion.sigma_max"),
    ],
)
def test_warning_about_a_process_that_does_not_end_in_noise_says_what_helps(
    tmp_path: Path, diffusion: dict[str, Any], instead: str
) -> None:
    (message,) = about_the_end(tmp_path, **diffusion)
    assert "; " + instead in message


@pytest.mark.parametrize(
    "diffusion",
    [
        *({"num_timesteps": 1000, "beta_schedule": name} for name in ("linear", "quadratic", "sigmoid", "cosine")),
        *({"num_timesteps": steps, "beta_schedule": "cosine"} for steps in (2, 20, 4000)),
        {"num_timesteps": 10, "beta_schedule": "linear", "zero_terminal_snr": True},
        *({"type": name} for name in ("continuous_cosine", "edm", "flow")),
    ],
    ids=str,
)
def test_process_that_ends_in_noise(tmp_path: Path, diffusion: dict[str, Any]) -> None:
    assert about_the_end(tmp_path, **diffusion) == []


def about_the_weighting(folder: Path, weighting: str, prediction: str, penalty: str = "mse", **diffusion: Any) -> bool:
    changes = {f"model.diffusion.{name}": value for name, value in {"prediction": prediction, **diffusion}.items()}
    loss = {"weighting": {"type": weighting}, "penalty": {"type": penalty}}
    config = tiny_config(folder, {**changes, "training.loss": loss})
    denoiser = create_denoiser(config.model)
    messages = list(weighting_warnings(create_loss(config.training.loss, 0.1), denoiser, weighting))
    assert all(
        message.startswith(f"training.loss.weighting {weighting} gives the noisiest level weight 0")
        for message in messages
    )
    return bool(messages)


ZERO = {"zero_terminal_snr": True}


@pytest.mark.parametrize("penalty", ["mse", "l1"])
@pytest.mark.parametrize(("prediction", "process"), [("v", ZERO), ("x0", ZERO), ("flow", {"type": "flow"})])
@pytest.mark.parametrize("weighting", ["min_snr", "p2", "sigmoid", "uniform", "edm"])
def test_weighting_that_ignores_the_level_where_sampling_starts(
    tmp_path: Path, weighting: str, prediction: str, process: dict[str, Any], penalty: str
) -> None:
    zero = weighting in ("min_snr", "p2", "sigmoid")
    assert about_the_weighting(tmp_path, weighting, prediction, penalty, **process) == zero
    assert not about_the_weighting(tmp_path, weighting, "v")


def test_run_gives_both_warnings_before_training(tmp_path: Path) -> None:
    process = {"model.diffusion.num_timesteps": 50, "model.diffusion.beta_schedule": "linear"}
    zero = {"model.diffusion.zero_terminal_snr": True, "model.diffusion.prediction": "v"}
    weighting = {"training.loss": {"weighting": {"type": "p2"}}}
    for changes, expected in (
        (process, "the noise process ends with alpha = 0.78"),
        (zero | weighting, "training.loss.weighting p2"),
    ):
        with recorded_warnings() as caught:
            tiny_run(tmp_path / expected[:9], {**changes, "training.epochs": 1})
        texts = [str(warning.message) for warning in caught if issubclass(warning.category, ConfigWarning)]
        assert any(text.startswith(expected) for text in texts)


class TestVeryLongRuns:
    """A run with ``training.epochs=100000000``, until it is stopped, starts at once."""

    @pytest.mark.parametrize("warmup", [True, False])
    def test_no_sum_over_all_steps(self, warmup: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        ema = EMA(tiny_denoiser(), decay=0.999, warmup=warmup, further_decays=[0.5])
        asked = 0

        def counted(self: EMA, update: int, decay: float) -> float:
            nonlocal asked
            asked += 1
            assert asked < 1000, "a sum over all steps of the run"
            return min(decay, (1 + update) / (10 + update)) if self.warmup else decay

        monkeypatch.setattr(EMA, "decay_at", counted)
        assert list(ema_warnings(ema, 10**12)) == []

    def test_start_of_a_run(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Up to the first step: a loop over all steps would take hours."""

        class Begun(Exception):
            pass

        def fit(*_: object, **__: object) -> None:
            raise Begun

        monkeypatch.setattr("lightning.pytorch.Trainer.fit", fit)
        schedule = {"type": "warmup_cosine", "warmup_steps": 4, "eta_min": 0.0}
        with pytest.raises(Begun):
            tiny_run(tmp_path, {"training.epochs": 10**9, "training.scheduler": schedule})
