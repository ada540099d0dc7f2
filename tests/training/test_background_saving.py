"""Training continues while a checkpoint is written, and no state is lost or mixed."""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer

from diffusion_lab.checkpoint import load_tensors, verify
from diffusion_lab.checkpoint.files import newest_valid, step_name, step_of
from diffusion_lab.training.callbacks import RNGState
from diffusion_lab.training.checkpoint_io import AtomicCheckpointIO, BackgroundCheckpointIO
from tests.training.tiny import tiny_run

PATIENCE = 60  # seconds to wait for another thread
STEPS_AN_EPOCH = 3


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Event that holds back writing until it is set."""
    opened = threading.Event()
    save = AtomicCheckpointIO.save_checkpoint

    def when_opened(*arguments: Any) -> None:
        assert opened.wait(PATIENCE), "training waited for the checkpoint"
        save(*arguments)

    monkeypatch.setattr(AtomicCheckpointIO, "save_checkpoint", when_opened)
    return opened


def test_the_written_state_is_that_of_the_call(gate: threading.Event, tmp_path: Path) -> None:
    weight, path = torch.zeros(3), tmp_path / step_name(7)
    io = BackgroundCheckpointIO()
    io.save_checkpoint({"step": 7, "weights": {"a": [weight]}}, path)
    assert io.busy
    weight += 1  # training continues
    gate.set()
    io.wait()
    assert not io.busy
    assert verify(path)
    assert load_tensors(path) == {"step": 7, "weights": {"a": [pytest.approx(torch.zeros(3))]}}


def test_types_of_containers_and_tensors_are_preserved(tmp_path: Path) -> None:
    state: Any = OrderedDict(image=torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last))
    state._metadata = {"": {"version": 1}}
    io = BackgroundCheckpointIO()
    io.save_checkpoint({"state": state, "pair": (1, torch.ones(2, dtype=torch.bfloat16))}, tmp_path / step_name(1))
    io.wait()
    loaded = load_tensors(tmp_path / step_name(1))
    assert type(loaded["state"]) is OrderedDict
    assert loaded["state"]._metadata == state._metadata
    assert loaded["state"]["image"].stride() == state["image"].stride()
    assert torch.equal(loaded["state"]["image"], state["image"])
    assert loaded["pair"][1].dtype == torch.bfloat16


def test_failure_is_raised_once_and_keeps_the_previous_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, io = tmp_path / step_name(1), BackgroundCheckpointIO()
    io.save_checkpoint({"weight": torch.zeros(3)}, path)
    io.wait()
    monkeypatch.setattr(torch, "save", full_disk)
    io.save_checkpoint({"weight": torch.ones(3)}, path)
    with pytest.raises(OSError, match="No space left on device; the checkpoint was not saved"):
        io.wait()
    io.wait()
    assert torch.equal(torch.load(path, weights_only=True)["weight"], torch.zeros(3))


def full_disk(content: Any, file: Any) -> None:
    raise OSError(28, "No space left on device")


@pytest.fixture
def at_step(monkeypatch: pytest.MonkeyPatch) -> dict[int, Any]:
    """Functions to call after steps of a run, through a callback that each run has."""
    tasks: dict[int, Any] = {}

    def act(self: Any, trainer: Trainer, module: LightningModule, *rest: Any) -> None:
        tasks.get(trainer.global_step, lambda: None)()

    monkeypatch.setattr(RNGState, "on_train_batch_end", act)
    return tasks


def test_training_continues_while_a_checkpoint_is_written(
    gate: threading.Event, at_step: dict[int, Any], tmp_path: Path
) -> None:
    """The checkpoint of the first epoch is held back until the second step of the second."""
    at_step[STEPS_AN_EPOCH + 2] = gate.set
    summary = tiny_run(tmp_path, {"training.checkpointing.save_frequency": 1})
    assert summary.steps == 2 * STEPS_AN_EPOCH
    files = [step_name(STEPS_AN_EPOCH), step_name(2 * STEPS_AN_EPOCH)]
    assert [load_tensors(tmp_path / "checkpoints" / name)["global_step"] for name in files] == [3, 6]


def test_full_disk_ends_the_run_at_the_next_step(
    at_step: dict[int, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached: list[int] = []
    for step in range(1, 1 + 6 * STEPS_AN_EPOCH):
        at_step[step] = lambda step=step: reached.append(step)
    at_step[STEPS_AN_EPOCH + 1] = lambda: monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="No space left on device; the checkpoint was not saved, earlier ones are intact"):
        tiny_run(tmp_path, {"training.epochs": 6, "training.checkpointing.save_frequency": 1})
    assert 2 * STEPS_AN_EPOCH < max(reached) <= 3 * STEPS_AN_EPOCH
    newest = newest_valid(tmp_path / "checkpoints")
    assert newest is not None
    assert step_of(newest) == STEPS_AN_EPOCH


def test_error_in_training_does_not_lose_the_pending_checkpoint(
    gate: threading.Event, at_step: dict[int, Any], tmp_path: Path
) -> None:
    def fail() -> None:
        threading.Timer(0.2, gate.set).start()
        raise RuntimeError("of training")

    at_step[STEPS_AN_EPOCH + 1] = fail
    with pytest.raises(RuntimeError, match="of training"):
        tiny_run(tmp_path, {"training.checkpointing.save_frequency": 1})
    assert (tmp_path / "checkpoints" / "best.ckpt").resolve().name == step_name(STEPS_AN_EPOCH)
    assert verify(tmp_path / "checkpoints" / "best.ckpt")
