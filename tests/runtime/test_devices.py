"""Resolution of device names on different machines."""

from __future__ import annotations

import math
import os

import pytest
import torch

from diffusion_lab.runtime.devices import host_memory, resolve_device


@pytest.fixture
def machine(monkeypatch):
    def has(*, cuda: bool, mps: bool, gpus: int = 1) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus if cuda else 0)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return has


@pytest.mark.parametrize(
    ("cuda", "mps", "best"), [(True, False, "cuda"), (False, True, "mps"), (False, False, "cpu"), (True, True, "cuda")]
)
def test_auto_is_the_best_device(machine, cuda, mps, best):
    machine(cuda=cuda, mps=mps)
    assert resolve_device("auto") == torch.device(best)
    assert resolve_device("cpu") == torch.device("cpu")


def test_a_gpu_is_chosen_by_its_number(machine):
    machine(cuda=True, mps=False, gpus=2)
    for index in (0, 1):
        for given in (f"cuda:{index}", torch.device("cuda", index)):
            assert resolve_device(given) == torch.device("cuda", index)
    assert resolve_device("cuda") == torch.device("cuda")
    assert resolve_device("auto") == torch.device("cuda")


def test_names_are_case_insensitive(machine):
    machine(cuda=True, mps=False, gpus=2)
    assert resolve_device("CUDA:1") == torch.device("cuda", 1)
    assert (resolve_device("Auto"), resolve_device("CPU")) == (torch.device("cuda"), torch.device("cpu"))


def test_index_of_a_single_device_is_dropped(machine):
    machine(cuda=False, mps=True)
    assert resolve_device("mps:0") == resolve_device("mps") == torch.device("mps")
    assert resolve_device(torch.device("cpu", 0)) == resolve_device("cpu:0") == torch.device("cpu")


@pytest.mark.parametrize(
    ("cuda", "mps", "gpus", "asked", "there"),
    [
        (False, False, 0, "cuda", "cpu"),
        (False, False, 0, "cuda:1", "cpu"),
        (True, False, 1, "mps", "cuda, cpu"),
        (True, False, 1, "cuda:1", "cuda, cpu"),
        (True, False, 2, "cuda:2", "cuda:0, cuda:1, cpu"),
        (False, True, 0, "mps:1", "mps, cpu"),
        (False, False, 0, "cpu:1", "cpu"),
        (False, False, 0, "xpu", "cpu"),
    ],
)
def test_missing_device_is_refused_with_the_available_ones(machine, cuda, mps, gpus, asked, there):
    machine(cuda=cuda, mps=mps, gpus=gpus)
    for given in (asked, torch.device(asked)):
        with pytest.raises(ValueError, match=rf"compute\.device must be .*\({there}, or auto\), got '{asked}'"):
            resolve_device(given)


@pytest.mark.parametrize("given", ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "cuda:01", " cuda", "auto:0", 1, None])
def test_invalid_device_is_refused_by_argument(given):
    with pytest.raises(ValueError, match=r"^device must be a device of this machine \(.*\), got ") as caught:
        resolve_device(given, "device")
    assert str(caught.value).endswith(f"got {given!r}")


def test_meta_device_is_always_available():
    """With ``meta`` a model is built for its shapes alone."""
    assert resolve_device("meta") == torch.device("meta")


@pytest.mark.parametrize("answer", [-1, ValueError, AttributeError])
def test_a_system_that_does_not_tell_its_memory_sets_no_limit(monkeypatch, answer):
    def sysconf(name):
        if answer == -1:
            return -1
        raise answer

    monkeypatch.setattr(os, "sysconf", sysconf)
    assert host_memory() == math.inf
