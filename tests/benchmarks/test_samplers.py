"""The benchmark behind the tables of docs/samplers.md."""

from __future__ import annotations

import itertools
import re

import pytest
import torch
from PIL import Image

from benchmarks import predictions
from benchmarks import samplers as benchmark
from benchmarks.report import write_table
from diffusion_lab.create import create_ddpm
from diffusion_lab.samplers import SAMPLERS
from tests.config.conftest import CONF

MODEL = {"image_size": 8, "in_channels": 1, "model_channels": 8, "channel_multipliers": [1], "use_attention": [False]}


def test_every_file_of_the_group_is_measured_with_its_settings():
    named = benchmark.named_samplers()
    assert named.keys() == {file.stem for file in (CONF / "sampler").glob("*.yaml")}
    assert all(type(named[name]) is SAMPLERS[name] for name in SAMPLERS)


@pytest.mark.parametrize("evaluations", [5, 10])
def test_methods_are_compared_at_equal_evaluations(evaluations):
    torch.manual_seed(0)
    model = create_ddpm(**MODEL, num_classes=10)
    for name, sampler in benchmark.curve_samplers(evaluations).items():
        drawn = benchmark.draw(model, sampler, per_class=1)
        assert drawn.pixels.shape == (10, 1, 8, 8)
        assert drawn.labels.tolist() == list(range(10))
        assert evaluations - 1 <= drawn.evaluations <= evaluations, name
        assert not isinstance(model.network, benchmark.Counted)


def test_the_fast_preset_uses_at_most_ten_evaluations():
    model = create_ddpm(**MODEL, num_classes=10)
    assert benchmark.draw(model, benchmark.named_samplers()["fast"], per_class=1).evaluations <= 10


def test_tables_are_written_after_their_markers(tmp_path):
    page = tmp_path / "samplers.md"
    page.write_text("a\n<!-- curve -->\n| method |\n|---|\n| old |\n\nb\n<!-- samplers -->\n| x |\n|---|\n| kept |\n")
    points = {5: benchmark.Point(2.0, 1.0), 50: benchmark.Point(1.234, 9.0)}
    write_table(page, "curve", benchmark.curve_rows({"ddim": points}))
    assert page.read_text().startswith("a\n<!-- curve -->\n| method |\n|---|\n| ddim | 2.00 |  |  | 1.23 |  |\n\nb\n")
    assert page.read_text().endswith("| kept |\n")


def test_a_page_without_the_marker_is_an_error(tmp_path):
    page = tmp_path / "samplers.md"
    page.write_text("no table\n")
    with pytest.raises(ValueError, match="<!-- curve -->"):
        write_table(page, "curve", ["| ddim |"])


@pytest.mark.parametrize(
    ("page", "marker"),
    [
        (benchmark.PAGE, "samplers"),
        (benchmark.PAGE, "curve"),
        (benchmark.PAGE, "variances"),
        (predictions.PAGE, "predictions"),
    ],
)
def test_the_rows_of_a_page_have_the_columns_of_their_table(page, marker):
    lines = page.read_text(encoding="utf-8").partition(f"<!-- {marker} -->\n")[2].splitlines()
    table = list(itertools.takewhile(lambda line: line.startswith("|"), lines))
    assert len(table) > 2
    assert {line.count("|") for line in table} == {table[0].count("|")}


def test_the_plot_is_written(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(benchmark, "PLOT", tmp_path / "plot.png")
    names = benchmark.curve_samplers(5)
    counts = (*benchmark.EVALUATIONS, benchmark.LONG)
    benchmark.plot({name: {count: benchmark.Point(3.0, count / 4) for count in counts} for name in names})
    with Image.open(tmp_path / "plot.png") as image:
        assert image.width > 1000


def test_the_page_shows_files_of_the_group_and_their_grids():
    """Only the samplers measured so far; a new one may not have been benchmarked yet."""
    page = benchmark.PAGE.read_text(encoding="utf-8")
    rows = re.findall(r"^\| `sampler=(\w+)` \| \d+ \| [\d.]+ s \| [\d.]+ \| [\d.]+ \|$", page, re.MULTILINE)
    names = {file.stem for file in (CONF / "sampler").glob("*.yaml")}
    assert rows == sorted(rows)
    assert {"balanced", "best", "ddim", "ddpm", "fast"} <= set(rows) <= names
    assert all(f"images/samplers/{name}.png" in page and (benchmark.GRIDS / f"{name}.png").is_file() for name in rows)
