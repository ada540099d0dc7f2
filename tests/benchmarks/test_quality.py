"""Quality for time: equal seconds, equal networks, one evaluator."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.quality import diffusers_loop, lucidrains
from benchmarks.quality.__main__ import _do as do_once
from benchmarks.quality.judge import Point
from benchmarks.quality.program import DIFFUSERS, LUCIDRAINS, OURS, RESULT, Task, do, images_of
from benchmarks.quality.report import rows, write_report
from benchmarks.quality.sets import write_folders
from benchmarks.quality.stopwatch import MARKS, Stopwatch, nearest
from diffusion_lab.config.compose import compose_train_config
from diffusion_lab.create import weight_shapes

CONF = Path(__file__).parents[2] / "conf"


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def test_keeping_weights_takes_no_time() -> None:
    clock, kept = Clock(), list[float]()

    def keep(seconds: float) -> None:
        kept.append(seconds)
        clock.now += 50

    watch = Stopwatch(80, keep, clock)
    steps = 0
    while not watch.tick():
        clock.now += 1
        steps += 1
    watch.keep_now()
    assert steps == 80
    assert kept == [*(share * 80 for share in MARKS), 80]


def test_marks_that_pass_within_one_step_are_kept_all() -> None:
    clock, kept = Clock(), list[float]()
    watch = Stopwatch(8, kept.append, clock)
    clock.now = 9
    assert watch.tick()
    assert kept == [9, 9, 9]


def test_a_network_of_another_size_is_refused() -> None:
    def make(width: int, height: int) -> torch.nn.Module:
        return torch.nn.Linear(width, height, bias=False)

    found = nearest(100, make, [(6, 10), (11, 10), (13, 10)])
    assert (found.in_features, found.weight.device.type) == (11, "cpu")
    with pytest.raises(ValueError, match="no network has 100 parameters within 20 %; the nearest has 130"):
        nearest(100, make, [(6, 10), (13, 10)])


@pytest.mark.parametrize("library", [lucidrains, diffusers_loop])
@pytest.mark.parametrize("form", [(1, 8), (3, 32), (1, 28)])
@pytest.mark.parametrize("model", ["unet_fast", "unet_small"])
def test_the_peers_networks_are_as_large_as_ours(
    library: Any, model: str, form: tuple[int, int], tmp_path: Path
) -> None:
    pytest.importorskip("diffusers")
    channels, size = form
    words = [f"data.paths.train={tmp_path}", f"model={model}"]
    words += [f"model.architecture.in_channels={channels}", f"model.architecture.image_size={size}"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose_train_config(compose("train", ["data=image_folder", *words]))
    wanted = sum(shape.numel() for shape in weight_shapes(config.model).values())
    count = sum(weights.numel() for weights in library.network(wanted, *form).parameters())
    assert 0.8 < count / wanted < 1.2


def test_the_network_of_the_readme_is_taken_where_images_can_be_halved_three_times() -> None:
    pytest.importorskip("denoising_diffusion_pytorch")
    assert [len(lucidrains.network(4_117_000, *form).downs) for form in ((1, 8), (3, 32), (1, 28))] == [4, 4, 3]


def test_folders_are_divided_by_class_and_written_once(tmp_path: Path) -> None:
    train, held_out = write_folders("digits", tmp_path)
    counts = [len(list(folder.glob("*/*.png"))) for folder in (train, held_out)]
    assert sum(counts) == 1797
    assert counts[1] / 1797 == pytest.approx(0.2, abs=0.01)
    assert sorted(folder.name for folder in held_out.iterdir()) == list("0123456789")
    (train / "0" / "mine.txt").touch()
    assert write_folders("digits", tmp_path) == (train, held_out)
    assert (train / "0" / "mine.txt").exists()


def test_what_was_made_with_other_arguments_is_neither_taken_nor_replaced(tmp_path: Path) -> None:
    task = Task(OURS, tmp_path, tmp_path / "out", 60.0, 10, 5, 1, 8)
    task.out.mkdir()
    (task.out / RESULT).write_text(json.dumps({"task": json.loads(task.text())}))
    do_once(task)  # it is there already
    with pytest.raises(SystemExit, match="other arguments: choose another --out"):
        do_once(replace(task, seconds=30.0))
    assert (task.out / RESULT).exists()


def test_only_the_last_snapshot_has_all_images() -> None:
    assert images_of(4, 1000) == [250, 250, 250, 1000]
    assert images_of(1, 3) == [3]


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
    assert Task.of(task.text()) == task
    peer = Task(DIFFUSERS, Path("a"), Path("out"), 60.0, 10, 5, 1, 8, like=Path("ours"))
    assert Task.of(peer.text()) == peer


@pytest.mark.parametrize("program", [LUCIDRAINS, DIFFUSERS])
def test_a_peer_trains_for_the_time_and_draws(program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a small network, for the time of some steps."""
    pytest.importorskip("diffusers")
    for index in range(100):
        Image.new("L", (8, 8), index).save(tmp_path / f"{index}.png")
    like = tmp_path / "ours"
    like.mkdir()
    (like / RESULT).write_text(json.dumps({"parameters": 410_000, "batch_size": 16}))
    monkeypatch.setattr(lucidrains, "MULTIPLIERS", ((1, 2),))
    monkeypatch.setattr(diffusers_loop, "MULTIPLIERS", ((1, 1),))
    do(Task(program, tmp_path, tmp_path / "out", 0.5, 3, 2, 1, 8, like=like))
    found = json.loads((tmp_path / "out" / RESULT).read_text())
    assert found["program"] == program
    assert 330_000 < found["parameters"] < 490_000
    assert [snapshot["seconds"] for snapshot in found["snapshots"]] == sorted(
        snapshot["seconds"] for snapshot in found["snapshots"]
    )
    assert len(found["snapshots"]) == len(MARKS) + 1
    last = np.load(tmp_path / "out" / found["snapshots"][-1]["images"])
    assert last.shape == (3, 1, 8, 8)
    assert last.dtype == np.uint8


def point(program: str, seconds: float, value: float) -> Point:
    estimate = SimpleNamespace(value=value, low=value / 2, high=2 * value)
    null = SimpleNamespace(estimate=estimate, n=20, reference_n=40, matched=SimpleNamespace(value=0.3))
    row = SimpleNamespace(name="kid_pixels", estimate=estimate, null=null, limit=None)
    pixels = np.zeros((4, 1, 8, 8), np.uint8)
    return Point(program, 1_000_000, seconds, cast("Any", {"kid": row, "fd": row}), pixels)


def test_the_table_has_the_end_of_each_program(tmp_path: Path) -> None:
    points = [point(program, seconds, 1 / seconds) for program in (DIFFUSERS, OURS) for seconds in (5.0, 10.0)]
    lines = rows({"digits": points})
    assert [line.split(" | ")[1] for line in lines] == [OURS, DIFFUSERS]
    assert all(
        "| 1.00 M | 10 s | kid_pixels | 0.1 (0.05 to 0.2) | 0.1 (20 of 40; samples: 0.3) |" in line for line in lines
    )


def test_page_curves_and_grids(tmp_path: Path) -> None:
    page = tmp_path / "docs" / "quality.md"
    page.parent.mkdir()
    page.write_text("<!-- quality -->\n| a |\n|---|\n| old |\n\n<!-- machine -->\n| b |\n|---|\n| old |\n")
    about = {"system": "Linux", "torch": "2", "instructions": "AVX2"}
    write_report({"digits": [point(OURS, 5.0, 0.1)]}, about, tmp_path / "out", page)
    assert "old" not in page.read_text()
    assert "| digits | ours | 1.00 M |" in page.read_text()
    assert "| Linux | 2 | AVX2 |" in page.read_text()
    for name in ("curves", f"digits-{OURS}"):
        with Image.open(tmp_path / "docs" / "images" / "quality" / f"{name}.png") as picture:
            assert min(picture.size) >= 8
