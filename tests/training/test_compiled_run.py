"""A run with a compiled network."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from diffusion_lab.checkpoint import find_checkpoint, load_denoiser
from diffusion_lab.networks.compiled import compile_in_place
from diffusion_lab.training import create
from tests.training.tiny import saved, tiny_run

RESUME = {"enabled": True, "checkpoint": "auto", "reset_optimizer": False, "reset_scheduler": False}


def test_compiled_run_is_trained_saved_resumed_and_sampled_like_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also its sample images and validation, which use the EMA. With batches of 7 the last of an epoch is smaller."""
    programs = CompileCounter()
    monkeypatch.setattr(create, "compile_in_place", lambda network: compile_in_place(network, programs))
    shown = {"training.visualization.enabled": True, "training.visualization.num_samples": 3}
    usual = {"training.epochs": 2, "data.loading.batch_size": 7, **shown}
    states = []
    for compiled in (False, True):
        folder, asked = tmp_path / str(compiled), {"training.performance.compile_model": compiled}
        tiny_run(folder, usual | asked | {"training.epochs": 1})
        tiny_run(folder, usual | asked | {"training.resume": RESUME})
        states.append(saved(find_checkpoint(folder, "last"))["state_dict"])
        load_denoiser(folder)
    assert list(states[0]) == list(states[1])
    torch.testing.assert_close(states[0], states[1], rtol=1e-3, atol=1e-4)
    assert (
        0 < programs.frame_count <= 8
    )  # of both runs: for the gradient and without, a time for each image and for all
