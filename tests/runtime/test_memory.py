"""A batch that does not fit into memory is halved, and the images are the same."""

from __future__ import annotations

import gc
import platform
import subprocess
import sys
import weakref

import pytest
import torch
from torch import nn

from diffusion_lab import DiffusionSampler, create_ddpm
from diffusion_lab.faults import ConfigWarning
from diffusion_lab.runtime.memory import batches_that_fit, is_out_of_memory
from diffusion_lab.samplers import DDPMSampler
from tests.recorded_warnings import recorded_warnings

SAYINGS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 64 bytes."),
    RuntimeError("MPS backend out of memory (MPS allocated: 9.00 GB)"),
    RuntimeError("std::bad_alloc"),
    RuntimeError("could not create a primitive"),
    MemoryError(),
]


@pytest.mark.parametrize("error", SAYINGS)
def test_all_out_of_memory_errors_are_recognized(error):
    assert is_out_of_memory(error)


@pytest.mark.parametrize("error", [RuntimeError("shape mismatch"), ValueError("out of memory"), KeyboardInterrupt()])
def test_other_errors_are_not_recognized(error):
    assert not is_out_of_memory(error)


class Room:
    """Work that fails for more than ``most`` at a time; ``tried`` are the sizes of all attempts."""

    def __init__(self, most, error=SAYINGS[1]):
        self.most, self.error, self.tried = most, error, []

    def __call__(self, part):
        size = part.stop - part.start
        self.tried.append(size)
        if size > self.most:
            raise self.error
        return list(range(part.start, part.stop))


@pytest.mark.parametrize(
    ("count", "batch_size", "most", "tried"),
    [
        (10, 4, 4, [4, 4, 2]),
        (20, 8, 2, [8, 4, *[2] * 10]),
        (10, 5, 4, [5, 2, 2, 2, 2, 2]),
        (3, 64, 1, [3, 1, 1, 1]),
    ],
)
def test_batch_is_halved_until_it_fits_and_stays(count, batch_size, most, tried):
    room = Room(most)
    with recorded_warnings() as caught:
        parts = list(batches_that_fit(room, count, batch_size, "size"))
    assert room.tried == tried
    assert [each for _, part in parts for each in part] == [*range(count)]
    assert [start for start, _ in parts] == [part[0] for _, part in parts]
    expected = f"size = {batch_size} does not fit into memory: {tried[-1]} images at a time from here on"
    assert [str(warning.message)[: len(expected)] for warning in caught] == [expected] * (most < min(batch_size, count))


def test_too_little_memory_for_one_image_is_an_error():
    room = Room(0)
    with pytest.raises(MemoryError, match="too small for one image at a time"):
        list(batches_that_fit(room, 10, 4, "size"))
    assert room.tried == [4, 2, 1]


def test_other_errors_are_not_retried():
    room = Room(1, RuntimeError("shape mismatch"))
    with pytest.raises(RuntimeError, match="shape mismatch"):
        list(batches_that_fit(room, 10, 4, "size"))
    assert room.tried == [4]


@pytest.mark.filterwarnings("ignore::diffusion_lab.faults.ConfigWarning")
def test_memory_of_a_failed_attempt_is_released():
    held = weakref.WeakSet()

    def work(part):
        gc.disable()  # what goes must go by itself or be collected on purpose
        assert not held
        tensor = torch.zeros(4)
        held.add(tensor)
        cycle = [tensor]
        cycle.append(cycle)
        if part.stop - part.start > 1:
            raise MemoryError
        cycle.clear()

    try:
        list(batches_that_fit(work, 1, 4, "size")) + list(batches_that_fit(work, 4, 4, "size"))
    finally:
        gc.enable()


class Narrow(nn.Module):
    """A network that has no room for more than so many images, after it has begun with them."""

    def __init__(self, network, most):
        super().__init__()
        self.network, self.most, self.calls = network, most, 0

    def forward(self, noisy, *arguments):
        self.calls += 1
        if self.calls > 2 and len(noisy) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.network(noisy, *arguments)


@pytest.fixture
def model():
    torch.manual_seed(0)
    settings = {"image_size": 8, "in_channels": 1, "model_channels": 8, "num_res_blocks": 1, "num_timesteps": 20}
    model = create_ddpm(**settings, channel_multipliers=[1, 2], use_attention=[False, True], num_classes=10)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def test_images_equal_those_of_the_smaller_batch(model):
    """Bit for bit; with guidance the network gets each image twice. The method draws noise at each step."""
    labels = [index % 10 for index in range(20)]
    ask = {"sampler": DDPMSampler(steps=4), "seed": 3}
    expected = DiffusionSampler(model).sample(20, labels, 2.0, batch_size=4, **ask)
    model.network = Narrow(model.network, most=8)
    with pytest.warns(ConfigWarning, match=r"^batch_size = 16 .* 4 images at a time"):
        images = DiffusionSampler(model).sample(20, labels, 2.0, batch_size=16, **ask)
    assert torch.equal(images, expected)


@pytest.mark.filterwarnings("ignore::diffusion_lab.faults.ConfigWarning")
def test_the_bar_ends_at_the_number_of_images(model, capsys):
    model.network = Narrow(model.network, most=3)
    DiffusionSampler(model).sample(7, sampler=DDPMSampler(steps=4), batch_size=7, show_progress=True)
    assert "7/7 images" in capsys.readouterr().err


def test_failed_sampling_leaves_the_model_unchanged(model):
    model.network = Narrow(model.network, most=0)
    model.train()
    with pytest.raises(MemoryError, match="too small for one image"):
        DiffusionSampler(model).sample(4, sampler=DDPMSampler(steps=4))
    assert all(module.training for module in model.modules())


STEPS = """
import resource, torch
from pathlib import Path
from diffusion_lab.runtime.memory import batches_that_fit
from diffusion_lab.cpu import cpu_optimizations

def cleared(rounds: int) -> list[int]:
    "Pages that the system clears while tensors of 49,152 pages come and go, each time after the first."
    found = []
    for _ in range(1 + rounds):
        begun = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        held = [torch.ones(2**20) for _ in range(48)]
        del held
        found.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - begun)
    return found[1:]

def held() -> int:
    "KiB of memory."
    return int(Path("/proc/self/status").read_text().partition("VmRSS:")[2].split()[0])

def no_room(part: slice) -> None:
    if part.stop > 1:
        raise MemoryError

cpu, gpu = torch.device("cpu"), torch.device("cuda")
"""
KEPT = """
before = held()
with cpu_optimizations(cpu):
    with cpu_optimizations(cpu):
        pass
    print(min(cleared(5)), held() - before)  # the system may take memory back in between
print(held() - before)
"""
ELSEWHERE = """
with cpu_optimizations(gpu):
    print(*cleared(1))
"""
SCARCE = """
list(batches_that_fit(lambda part: no_room(part) if part.start == 0 else None, 2, 2, "size"))
with cpu_optimizations(cpu):
    print(*cleared(1))
"""
LIMITED = """
resource.setrlimit(resource.RLIMIT_DATA, (2**40, -1))
with cpu_optimizations(cpu):
    print(*cleared(1))
"""
PEAK = """
from diffusion_lab.runtime.memory import peak_bytes
print(held() * 1024, peak_bytes())
"""

glibc_alone = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told what to keep")


def told_by(steps: str) -> list[int]:
    command = [sys.executable, "-W", "ignore", "-c", STEPS + steps]
    return [*map(int, subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split())]


@glibc_alone
def test_freed_memory_is_kept_during_and_returned_after_sampling():
    cleared, held, held_at_the_end = told_by(KEPT)
    assert cleared < 16_000
    assert held > 100_000
    assert held_at_the_end < 20_000


@glibc_alone
@pytest.mark.parametrize(
    "steps",
    [ELSEWHERE, SCARCE, LIMITED],
    ids=["on another device", "once memory has run out", "where addresses are limited"],
)
def test_no_memory_is_kept(steps):
    (cleared,) = told_by(steps)
    assert cleared > 32_000


def test_the_peak_of_a_process_is_its_own():
    """Not that of the process that started it, which held more."""
    held = torch.ones(2**28)
    now, peak = told_by(PEAK)
    assert now <= peak < held.nbytes
