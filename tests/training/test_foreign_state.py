"""Import of state from the checkpoint of another program."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import ExponentialLR, LambdaLR, ReduceLROnPlateau

from diffusion_lab import EMA
from diffusion_lab.checkpoint import Checkpoint, read_checkpoint
from diffusion_lab.create import create_denoiser
from diffusion_lab.training.create import create_module
from diffusion_lab.training.foreign_state import _advance, import_foreign_state
from diffusion_lab.training.module import DiffusionModule
from diffusion_lab.training.sources import create_datamodule
from tests.checkpoint.hostile import WRONG, places, replaced
from tests.training.tiny import tiny_config, tiny_tree

CONSTANT = {"type": None}
STEP = {"type": "step", "step_size": 1, "gamma": 0.5}

MakeModule = Callable[..., DiffusionModule]


@pytest.fixture
def module(tmp_path: Path) -> MakeModule:
    def make(scheduler: dict[str, Any] = CONSTANT, **ema: Any) -> DiffusionModule:
        changed: dict[str, Any] = {f"training.ema.{name}": value for name, value in ema.items()}
        changed["training.scheduler"] = scheduler
        config = tiny_config(tmp_path, changed)
        data = create_datamodule(config, seed=0)
        torch.manual_seed(0)
        denoiser = create_denoiser(config.model, data.class_names)
        return create_module(config, denoiser, data, tiny_tree(tmp_path, changed))

    return make


def content_of(module: DiffusionModule) -> dict[str, Any]:
    """Return what the other program saved of a model like that of the module."""
    model = copy.deepcopy(module.denoiser)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.5)
    ema = EMA(model, decay=0.5)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    ema.update()
    shadow = {"decay": 0.5, "shadow": ema.average.state_dict(), "num_updates": 1}
    whole = {"model_state_dict": model.state_dict(), "ema_state_dict": shadow, "num_classes": 3, "epoch": 1}
    return {**whole, "optimizer_state_dict": optimizer.state_dict()}


@pytest.fixture
def read(tmp_path: Path) -> Callable[[Any], Checkpoint]:
    def save(content: Any) -> Checkpoint:
        torch.save(content, tmp_path / "old.pt")
        return read_checkpoint(tmp_path / "old.pt")

    return save


def test_every_part_is_taken_over_and_noted(module: MakeModule, read: Any) -> None:
    new = module(decay=0.9, further_decays=[0.99])
    content = content_of(new)
    taken = import_foreign_state(read(content), new, steps=3)
    assert (taken.epochs, taken.steps) == (1, 3)
    assert taken.optimizer_states is not None
    assert len(taken.optimizer_states) == len(list(new.denoiser.parameters()))
    assert new.ema is not None
    for average in (new.ema.average, *new.ema.further):
        for name, weight in average.state_dict().items():
            assert torch.equal(weight, content["ema_state_dict"]["shadow"][name])
    assert int(new.ema.updates) == 1
    assert taken.notes == [
        "epoch: 1 in the file is taken as the number of epochs that are done, counted as 3 optimizer steps of these "
        "settings; training continues with epoch 2",
        "averaged weights: taken over (updates so far: 1)",
        "training.ema.decay was 0.5 in the file and is 0.9; the new value is used",
        "training.ema.further_decays: these averages begin with the averaged weights of the file",
        "optimizer: its state is taken over, its options come from the settings",
        "training.optimizer.learning_rate is 0.01 and was 0.5 at the last step in the file",
    ]


def test_unused_averages_are_noted(module: MakeModule, read: Any) -> None:
    new = module(enabled=False)
    notes = import_foreign_state(read(content_of(new)), new, steps=3).notes
    assert "averaged weights: not taken over, since training.ema.enabled=false" in notes


def test_resets_of_the_settings_are_applied(module: MakeModule, read: Any) -> None:
    new = module()
    taken = import_foreign_state(read(content_of(new)), new, steps=3, reset_optimizer=True, reset_schedule=True)
    assert taken.optimizer_states is None
    assert taken.reset_schedule
    assert "optimizer: starts fresh (training.resume.reset_optimizer=true)" in taken.notes


@pytest.mark.parametrize(
    ("scheduler", "reset", "note"),
    [
        (STEP, False, "that of the settings, continued after epoch 1"),
        ({"type": "plateau"}, False, "plateau depends on losses, which the file does not hold; it starts fresh"),
        (STEP, True, "starts fresh (training.resume.reset_scheduler=true)"),
    ],
)
def test_position_of_the_schedule_is_noted(
    module: MakeModule, read: Any, scheduler: dict[str, Any], reset: bool, note: str
) -> None:
    new = module(scheduler)
    taken = import_foreign_state(read(content_of(new)), new, steps=3, reset_schedule=reset)
    assert f"learning-rate schedule: {note}" in taken.notes


def test_optimizer_state_is_not_taken_over_if_the_order_of_weights_differs(module: MakeModule, read: Any) -> None:
    """Sorted by name, as in some file formats: positions do not identify weights then, and many shapes are equal."""
    new = module()
    content = content_of(new)
    content["model_state_dict"] = dict(sorted(content["model_state_dict"].items()))
    taken = import_foreign_state(read(content), new, steps=3)
    assert taken.optimizer_states is None
    assert any("are in another order than those of this model; it starts fresh" in note for note in taken.notes)


def test_every_entry_of_the_file_is_taken_over_or_named(module: MakeModule, read: Any) -> None:
    new = module()
    whole, draw = content_of(new), random.Random(0)
    paths = [place for place in places(whole) if place[0] in ("epoch", "optimizer_state_dict", "ema_state_dict")]
    shallow = [place for place in paths if len(place) <= 2]
    for number in range(60):
        changed = replaced(whole, draw.choice(shallow if number % 3 else paths), WRONG[draw.choice(list(WRONG))])
        try:
            checkpoint = read(changed)
        except ValueError:
            continue  # no file of tensors and plain containers, or one that is a trap
        taken = import_foreign_state(checkpoint, new, steps=3)
        assert [note.partition(":")[0] for note in taken.notes if "training." not in note.partition(":")[0]][:2] == [
            "epoch",
            "averaged weights",
        ]
        assert any(note.startswith("optimizer: ") for note in taken.notes)


@pytest.mark.parametrize("count", [0, 1, 5])
def test_a_schedule_is_advanced_by_a_number_of_steps(count: int) -> None:
    def schedules() -> list[Any]:
        optimizers = [SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0) for _ in range(2)]
        return [LambdaLR(optimizers[0], lambda step: 1 / (1 + step)), ExponentialLR(optimizers[1], 0.5)]

    for placed, walked in zip(schedules(), schedules(), strict=True):
        _advance(placed, count)
        for _ in range(count):
            walked.optimizer.step()
            walked.step()
        assert placed.optimizer.param_groups[0]["lr"] == pytest.approx(walked.optimizer.param_groups[0]["lr"])
        assert placed.last_epoch == walked.last_epoch == count
        assert placed.get_last_lr() == pytest.approx(walked.get_last_lr())


def test_plateau_starts_from_its_initial_state() -> None:
    schedule = ReduceLROnPlateau(SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0))
    _advance(schedule, 5)
    assert schedule.last_epoch == 0
