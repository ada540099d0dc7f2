"""Image quality for equal training time: timing, network sizes, tasks and report."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from hydra import compose
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.quality import diffusers_loop, lucidrains
from benchmarks.quality.__main__ import run_once
from benchmarks.quality.datasets import write_folders
from benchmarks.quality.evaluator import Point
from benchmarks.quality.program import DIFFUSERS, LUCIDRAINS, OURS, RESULT, Task, images_per_snapshot, run_task
from benchmarks.quality.report import rows, write_report
from benchmarks.quality.snapshot_timer import MARKS, SnapshotTimer, build_network_of_size
from diffusion_lab.cli.compose import compose_train_config
from diffusion_lab.cli.hydra_app import initialized_hydra
from diffusion_lab.create import create_denoiser

CONF = Path(__file__).parents[2] / "conf"


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def test_saving_snapshots_does_not_count_as_training_time() -> None:
    clock, saved = Clock(), list[float]()

    def save(seconds: float) -> None:
        saved.append(seconds)
        clock.now += 50

    timer = SnapshotTimer(80, save, clock)
    steps = 0
    while not timer.tick():
        clock.now += 1
        steps += 1
    timer.save_now()
    assert steps == 80
    assert saved == [*(share * 80 for share in MARKS), 80]


def test_a_snapshot_is_saved_for_each_mark_passed_within_one_step() -> None:
    clock, saved = Clock(), list[float]()
    timer = SnapshotTimer(8, saved.append, clock)
    clock.now = 9
    assert timer.tick()
    assert saved == [9, 9, 9]


def test_the_network_of_closest_size_is_built_and_others_are_refused() -> None:
    def build(width: int, height: int) -> torch.nn.Module:
        return torch.nn.Linear(width, height, bias=False)

    network = build_network_of_size(100, build, [(6, 10), (11, 10), (13, 10)])
    assert (network.in_features, network.weight.device.type) == (11, "cpu")
    with pytest.raises(ValueError, match="no network has 100 parameters within 20 %; the nearest has 130"):
        build_network_of_size(100, build, [(6, 10), (13, 10)])


@pytest.mark.parametrize("library", [lucidrains, diffusers_loop])
@pytest.mark.parametrize(("channels", "image_size"), [(1, 8), (3, 32), (1, 28)])
@pytest.mark.parametrize("model", ["unet_fast", "unet_small"])
def test_the_peers_networks_are_as_large_as_ours(
    library: Any, model: str, channels: int, image_size: int, tmp_path: Path
) -> None:
    pytest.importorskip("diffusers")
    overrides = ["data=image_folder", f"data.paths.train={tmp_path}", f"model={model}"]
    overrides += [f"model.architecture.in_channels={channels}", f"model.architecture.image_size={image_size}"]
    with initialized_hydra("app", CONF):
        config = compose_train_config(compose("train", overrides))
    ours = create_denoiser(config.model, without_weights=True)
    parameters = sum(weights.numel() for weights in ours.parameters())
    network = library.build_network(parameters, channels, image_size)
    assert 0.8 < sum(weights.numel() for weights in network.parameters()) / parameters < 1.2


def test_the_network_of_the_readme_is_used_where_images_can_be_halved_three_times() -> None:
    pytest.importorskip("denoising_diffusion_pytorch")
    assert [len(lucidrains.build_network(4_117_000, *shape).downs) for shape in ((1, 8), (3, 32), (1, 28))] == [4, 4, 3]


def test_folders_are_split_by_class_and_written_once(tmp_path: Path) -> None:
    train, held_out = write_folders("digits", tmp_path)
    counts = [len(list(folder.glob("*/*.png"))) for folder in (train, held_out)]
    assert sum(counts) == 1797
    assert counts[1] / 1797 == pytest.approx(0.2, abs=0.01)
    assert sorted(folder.name for folder in held_out.iterdir()) == list("0123456789")
    (train / "0" / "mine.txt").touch()
    assert write_folders("digits", tmp_path) == (train, held_out)
    assert (train / "0" / "mine.txt").exists()


def test_a_result_for_other_arguments_is_neither_used_nor_replaced(tmp_path: Path) -> None:
    task = Task(OURS, tmp_path, tmp_path / "out", 60.0, 10, 5, 1, 8)
    task.out.mkdir()
    (task.out / RESULT).write_text(json.dumps({"task": json.loads(task.to_json())}))
    run_once(task)  # the result exists already
    with pytest.raises(SystemExit, match="other arguments: choose another --out"):
        run_once(replace(task, seconds=30.0))
    assert (task.out / RESULT).exists()


def test_only_the_last_snapshot_has_all_images() -> None:
    assert images_per_snapshot(4, 1000) == [250, 250, 250, 1000]
    assert images_per_snapshot(1, 3) == [3]


def test_the_cosine_of_diffusers_ends_at_zero_and_stays_there() -> None:
    pytest.importorskip("diffusers")
    loader = DataLoader(TensorDataset(torch.zeros(1, 1, 2, 2)))
    model = torch.nn.Module()
    model.weight = torch.nn.Parameter(torch.zeros(1))
    model.forward = lambda noisy, times: SimpleNamespace(sample=model.weight * noisy)  # type: ignore[method-assign]
    loop = diffusers_loop._Loop(model, cast("Any", [batch for (batch,) in loader]), steps=20)
    rates = []
    for _ in range(30):
        loop.step()
        rates.append(loop.optimizer.param_groups[0]["lr"])
    assert max(rates) == rates[1] == pytest.approx(1e-4)  # the warm-up is a tenth
    assert rates[19:] == [pytest.approx(0, abs=1e-12)] * 11


def test_a_task_survives_the_command_line() -> None:
    task = Task(OURS, Path("a b"), Path("out"), 60.0, 10, 5, 1, 8, arguments=("training.ema.decay=0.99",))
    assert Task.from_json(task.to_json()) == task
    peer = Task(DIFFUSERS, Path("a"), Path("out"), 60.0, 10, 5, 1, 8, like=Path("ours"))
    assert Task.from_json(peer.to_json()) == peer


@pytest.mark.parametrize("program", [LUCIDRAINS, DIFFUSERS])
def test_a_peer_trains_for_the_given_time_and_samples(
    program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Use a small network and the time of a few steps."""
    pytest.importorskip("diffusers")
    for index in range(100):
        Image.new("L", (8, 8), index).save(tmp_path / f"{index}.png")
    like = tmp_path / "ours"
    like.mkdir()
    (like / RESULT).write_text(json.dumps({"parameters": 410_000, "batch_size": 16}))
    monkeypatch.setattr(lucidrains, "MULTIPLIERS", ((1, 2),))
    monkeypatch.setattr(diffusers_loop, "MULTIPLIERS", ((1, 1),))
    run_task(Task(program, tmp_path, tmp_path / "out", 0.5, 3, 2, 1, 8, like=like))
    result = json.loads((tmp_path / "out" / RESULT).read_text())
    assert result["program"] == program
    assert 330_000 < result["parameters"] < 490_000
    assert [snapshot["seconds"] for snapshot in result["snapshots"]] == sorted(
        snapshot["seconds"] for snapshot in result["snapshots"]
    )
    assert len(result["snapshots"]) == len(MARKS) + 1
    last = np.load(tmp_path / "out" / result["snapshots"][-1]["images"])
    assert last.shape == (3, 1, 8, 8)
    assert last.dtype == np.uint8


def point(program: str, seconds: float, value: float) -> Point:
    estimate = SimpleNamespace(value=value, low=value / 2, high=2 * value)
    null = SimpleNamespace(estimate=estimate, n=20, reference_n=40, matched=SimpleNamespace(value=0.3))
    row = SimpleNamespace(name="kid_pixels", estimate=estimate, null=null, limit=None)
    pixels = np.zeros((4, 1, 8, 8), np.uint8)
    return Point(program, 1_000_000, seconds, cast("Any", {"kid": row, "fd": row}), pixels)


def test_the_table_lists_the_last_snapshot_of_each_program(tmp_path: Path) -> None:
    points = [point(program, seconds, 1 / seconds) for program in (DIFFUSERS, OURS) for seconds in (5.0, 10.0)]
    lines = rows({"digits": points})
    assert [line.split(" | ")[1] for line in lines] == [OURS, DIFFUSERS]
    assert all(
        "| 1.00 M | 10 s | kid_pixels | 0.1 (0.05 to 0.2) | 0.1 (20 of 40; samples: 0.3) |" in line for line in lines
    )


def test_tables_curves_and_grids_are_written(tmp_path: Path) -> None:
    page = tmp_path / "docs" / "quality.md"
    page.parent.mkdir()
    page.write_text("<!-- quality -->\n| a |\n|---|\n| old |\n\n<!-- machine -->\n| b |\n|---|\n| old |\n")
    about = {"system": "Linux", "torch": "2", "instructions": "AVX2"}
    write_report({"digits": [point(OURS, 5.0, 0.1)]}, about, tmp_path / "out", page)
    assert "old" not in page.read_text()
    assert "| digits | ours | 1.00 M |" in page.read_text()
    assert "| Linux | 2 | AVX2 |" in page.read_text()
    for name in ("curves", f"digits-{OURS}"):
        with Image.open(tmp_path / "docs" / "images" / "quality" / f"{name}.png") as image:
            assert min(image.size) >= 8
