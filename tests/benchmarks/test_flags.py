"""The benchmark of performance settings compares a network without each of them with the same network with it."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict

import pytest
import torch

from benchmarks import equal_work, flags, report
from benchmarks.harness import Row, Timings

CPU = torch.device("cpu")
SMALL = flags.Work(
    {**equal_work.EQUAL_WORK, "model_channels": 8, "channel_multipliers": [1, 2], "use_attention": [False, True]},
    batch=2,
)


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch):
    monkeypatch.setattr(flags, "ROUNDS", 1)
    monkeypatch.setattr(flags, "WARM_UP", 0)


def named(name: str) -> flags.Flag:
    return next(flag for flag in flags.FLAGS if name in flag.name)


def conv_memory_formats(denoiser) -> set[torch.memory_format]:
    """Return the memory formats of the inputs of the network's 3×3 convolutions."""
    seen = set()

    def look(module, inputs):
        image = inputs[0]
        for memory_format in (torch.channels_last, torch.contiguous_format):
            if image.is_contiguous(memory_format=memory_format):
                seen.add(memory_format)

    hooks = [
        module.register_forward_pre_hook(look)
        for module in denoiser.network.modules()
        if isinstance(module, torch.nn.Conv2d) and module.kernel_size == (3, 3)
    ]
    flags._training(denoiser, SMALL)()
    for hook in hooks:
        hook.remove()
    return seen


def test_each_setting_is_one_of_the_schema():
    from diffusion_lab.config.training_section import PerformanceSettings

    for flag in flags.FLAGS[:-1]:
        section, _, name = flag.name.removesuffix("=true").rpartition(".")
        assert section == "training.performance"
        assert name in PerformanceSettings.model_fields


def test_settings_of_gpus_are_open_on_a_cpu():
    for name in ("use_tf32", "cudnn_benchmark"):
        (row,) = flags.rows_of(named(name), CPU, SMALL)
        assert (row.verdict, row.note) == ("open", "for NVIDIA GPUs")


def test_all_are_open_without_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert [(row.what, row.verdict) for row in flags.measure("cuda")] == [(flag.name, "open") for flag in flags.FLAGS]


def test_mixed_precision_is_open_where_it_would_be_emulated(monkeypatch):
    monkeypatch.setattr("diffusion_lab.runtime.precision.has_bfloat16", lambda device: False)
    (row,) = flags.rows_of(named("use_amp"), CPU, SMALL)
    assert row.verdict == "open"


def test_mixed_precision_is_measured_where_the_device_has_it(monkeypatch):
    monkeypatch.setattr("diffusion_lab.runtime.precision.has_bfloat16", lambda device: True)
    training, sampling = flags.rows_of(named("use_amp"), CPU, SMALL)
    assert "bfloat16 on cpu" in training.note
    assert None not in (training.ours, training.peer, sampling.ours, sampling.peer)


def test_without_channels_last_no_layer_uses_it():
    flag = named("channels-last")
    without, with_it = (flags._denoiser(change, CPU, SMALL) for change in (flag.off, flag.on))
    assert torch.channels_last in conv_memory_formats(with_it)
    assert conv_memory_formats(without) == {torch.contiguous_format}
    noisy, time = torch.randn(2, *equal_work.IMAGE_SHAPE), torch.tensor([0.5])
    with_it.network.load_state_dict(without.network.state_dict())
    torch.testing.assert_close(with_it.network(noisy, time), without.network(noisy, time))


def test_a_network_that_is_not_compiled_has_no_figures(monkeypatch):
    compile_in_place = flags.compile_in_place
    monkeypatch.setattr(flags, "compile_in_place", lambda network: compile_in_place(network, lambda *_: 1 / 0))
    with pytest.raises(UserWarning, match="without being compiled"):
        flags.rows_of(flags.COMPILE, CPU, SMALL)


@pytest.mark.parametrize("state", [flags.tf32, flags.kernel_search])
def test_the_state_of_the_backends_is_restored(state):
    def now():
        cudnn = torch.backends.cudnn
        return torch.backends.cuda.matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark

    before = now()
    for on in (False, True):
        with state(on):
            assert on in now()
        assert now() == before


def test_the_ratio_is_of_the_time_without_to_the_time_with():
    row = flags._row(
        named("use_tf32"), "x", Timings({"off": [3.0], "on": [2.0]}), flags._denoiser(lambda _: None, CPU, SMALL), 2
    )
    assert (row.ratio, row.ours, row.peer) == (1.5, 1.0, pytest.approx(2 / 3))


def test_only_the_part_of_the_page_for_flags_is_replaced(tmp_path, monkeypatch):
    page = tmp_path / "performance.md"
    shutil.copy(report.PAGE, page)
    monkeypatch.setattr(report, "PAGE", page)
    before = page.read_text()
    row = asdict(Row(flags.GOAL, "a setting", 2.0, 1.0, "images/s", 2.0))
    machine = {"system": "S", "torch": "T", "threads": 1, "instructions": "I", "limit_gflops": {"float32": 9.0}}
    results = tmp_path / "results.json"
    results.write_text(json.dumps({"machine": machine, "rows": [row]}))
    report.main(results)
    assert "| 11 | a setting | 2 images/s | 1 images/s | 2.00 |" in page.read_text()
    page.write_text(report.between(page.read_text(), "flags", "x"))
    assert page.read_text() == report.between(before, "flags", "x")


def test_compiling_is_open_on_a_cpu_unless_requested(monkeypatch):
    monkeypatch.setattr(flags, "rows_of", lambda flag, device, work: [Row(flags.GOAL, flag.name, 1.0, 1.0, "", 1.0)])
    verdicts = [[row.verdict for row in flags.measure("cpu", compile)] for compile in ("no", "yes")]
    assert verdicts == [["", "", "", "open", ""], [""] * 5]
