"""Benchmarks of training steps, sampling and start-up compare what they claim to compare."""

from __future__ import annotations

import pytest
import torch

from benchmarks import equal_work, sampling, start, training_step
from benchmarks.harness import Timings
from diffusion_lab.checkpoint import load_denoiser
from diffusion_lab.networks.cost import forward_flops


def test_ours_does_the_same_work_as_diffusers():
    pytest.importorskip("diffusers")
    peer = equal_work.diffusers_unet()
    theirs = equal_work.training_flops(lambda images, times: peer(images, times).sample)
    ours = equal_work.our_denoiser().network
    equal_work.check_equal_work(equal_work.training_flops(lambda images, times: ours(images, times / 1000)), theirs)


def test_unequal_work_is_refused():
    with pytest.raises(ValueError, match=r"equal work, got 1\.06 and 1\.00 GFLOP"):
        equal_work.check_equal_work(1.06e9, 1e9)


def test_the_flops_of_a_step_are_three_times_those_of_the_forward_pass():
    """Attention is excluded: on the CPU torch does not count it."""
    network = equal_work.our_denoiser().network
    one_way = forward_flops(network, equal_work.IMAGE_SHAPE)
    assert equal_work.training_flops(lambda images, times: network(images, times / 1000)) == pytest.approx(
        3 * one_way, rel=0.05
    )


@pytest.mark.parametrize("bf16", [False, True])
def test_our_step_trains(bf16, monkeypatch):
    monkeypatch.setattr(equal_work, "BATCH", 1)
    small = {**equal_work.EQUAL_WORK, "model_channels": 8}
    made = []
    monkeypatch.setattr(equal_work, "EQUAL_WORK", small)
    build = equal_work.our_denoiser
    monkeypatch.setattr(equal_work, "our_denoiser", lambda: made.append(build()) or made[0])
    torch.manual_seed(0)
    step = training_step.our_step(bf16)
    before = [parameter.clone() for parameter in made[0].parameters()]
    for _ in range(4):  # what begins as zero lets nothing through to the layers before it at first
        step()
    moved = [not torch.equal(old, new) for old, new in zip(before, made[0].parameters(), strict=True)]
    assert sum(moved) > 0.9 * len(moved)


@pytest.mark.parametrize(("bf16", "bounds"), [(True, [2.0, 1.4, 1.2, 0.6]), (False, [None, None, None, 0.85])])
def test_the_goals_of_a_step_are_those_of_the_machine(bf16, bounds):
    kind = "bf16" if bf16 else "fp32"
    seconds = {"diffusers fp32": [4.0], "diffusers bf16": [3.0], f"ours {kind}": [2.0], f"lucidrains {kind}": [1.2]}
    work = {"ours": 10**10, "diffusers": 10**10, "lucidrains": 5 * 10**9}
    rows = training_step.rows(Timings({**seconds, f"limit {kind}": [0.1]}), work, bf16)
    assert [row.bound for row in rows] == bounds
    assert rows[0].ratio == 2
    faster = {**seconds, f"limit {kind}": [0.1], training_step.COMPILED: [seconds[f"ours {kind}"][0] / 2]}
    compiled = training_step.rows(Timings(faster), work, bf16)[4:]
    assert [row.ratio for row in compiled] == pytest.approx([4, 2 * (rows[3].ratio or 0)])
    assert rows[2].ratio == pytest.approx(1.2)  # 0.6 of the time for half of the work
    assert rows[3].ratio == pytest.approx(16 * 1e10 / 2 / (2 * 2048**3 / 0.1))


def test_a_guided_step_evaluates_once_and_embeds_one_time():
    assert sampling.count_guided_steps() == (sampling.STEPS, sampling.STEPS)


def test_sampling_evaluates_once_per_step_without_a_label():
    denoiser = equal_work.our_denoiser()
    denoiser.network = counted = sampling.Counted(denoiser.network)
    sampling.sample(sampling.DiffusionSampler(denoiser), 1, 3)
    assert counted.count == 3


def test_the_peak_memory_is_only_that_of_sampling(tmp_path):
    """The memory of the parent process, which is larger, does not count."""
    held = bytearray(2**30)
    held[:: 2**12] = b"x" * len(held[:: 2**12])
    equal_work.write_checkpoint(tmp_path / "model.ckpt", sampling.SMALL)
    assert 2**27 < sampling.peak_memory(1, tmp_path / "model.ckpt", tmp_path) < 2**30
    del held


def test_quality_without_a_checkpoint_is_open(tmp_path):
    assert sampling.quality_row(tmp_path / "none").verdict == "open"


def test_the_checkpoint_of_the_benchmarks_can_be_loaded(tmp_path):
    equal_work.write_checkpoint(tmp_path / "model.ckpt", sampling.SMALL)
    assert load_denoiser(tmp_path / "model.ckpt").image_shape == (3, 32, 32)


def test_timing_of_sample_py_stops_at_its_first_step(tmp_path):
    """The wrapper fails if sample.py ends without a denoising step."""
    equal_work.write_checkpoint(tmp_path / "model.ckpt", sampling.SMALL)
    start.ways(tmp_path)["sample.py"]()
    assert not list((tmp_path / "images").rglob("*.png"))


def test_a_start_is_compared_with_seconds_or_with_lightning():
    seconds = {"train.py --help": [1.2], "train.py --cfg job": [1.5], "import lightning.pytorch": [5.0]}
    rows = start.rows(Timings({**seconds, "sample.py": [3.0], "import torch, weights": [2.0]}))
    assert [row.verdict for row in rows] == ["reached", "MISS", "reached"]
    slower = {name: [2 * value for value in taken] for name, taken in seconds.items()}
    rows = start.rows(Timings({**slower, "sample.py": [5.0], "import torch, weights": [2.0]}))
    assert [row.verdict for row in rows] == ["reached", "MISS", "MISS"]
