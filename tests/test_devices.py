"""The device that a setting means, on machines of all kinds."""

from __future__ import annotations

import pytest
import torch

from diffusion_lab.devices import resolve_device


@pytest.fixture
def machine(monkeypatch):
    def has(*, cuda: bool, mps: bool) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return has


@pytest.mark.parametrize(
    ("cuda", "mps", "best"), [(True, False, "cuda"), (False, True, "mps"), (False, False, "cpu"), (True, True, "cuda")]
)
def test_auto_is_the_best_there_is(machine, cuda, mps, best):
    machine(cuda=cuda, mps=mps)
    assert resolve_device("auto").type == best
    assert resolve_device("cpu").type == "cpu"


@pytest.mark.parametrize(
    ("cuda", "mps", "asked", "there"), [(False, False, "cuda", "cpu"), (True, False, "mps", "cuda, cpu")]
)
def test_a_device_that_is_not_there_is_refused_with_those_that_are(machine, cuda, mps, asked, there):
    machine(cuda=cuda, mps=mps)
    with pytest.raises(ValueError, match=rf"compute\.device must be .*\({there}, or auto\), got '{asked}'"):
        resolve_device(asked)
