"""Distances printed by the demo: for the samples, and for real digits instead."""

from __future__ import annotations

import pytest
import torch

from diffusion_lab.data.digits import digits
from diffusion_lab.features import create_extractor
from scripts import demo
from tests.generation.test_generate import save_checkpoint
from tests.reports.synthetic_runs import write_run


@pytest.fixture(scope="module")
def measurements():
    train, held_out = digits(subset="train"), digits(subset="heldout")
    distances = demo.Distances(create_extractor("pixels", source=train))
    real = torch.from_numpy(held_out.images), torch.from_numpy(held_out.labels)
    noise = torch.randint(0, 256, (400, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return [distances.measure(noise, torch.arange(400) % 10), distances.measure(*real)]


def test_summary_holds_distances_with_their_null_rows(measurements):
    noise, real = (demo.numbers(found) for found in measurements)
    assert set(noise) == {
        *("fd_pixels", "fd_pixels_infinity", "fd_pixels_null", "fd_pixels_beside_null"),
        *("kid_pixels", "kid_pixels_null", "kid_pixels_beside_null"),
    }
    for name in ("fd_pixels", "kid_pixels"):
        assert noise[f"{name}_beside_null"] > 3 * abs(noise[f"{name}_null"])
        assert real[f"{name}_beside_null"] == real[f"{name}_null"]  # 359 held-out digits are as many as samples


def test_table_names_features_numbers_and_real_digits(measurements):
    table = demo.distance_table([measurements[0]] * 2).splitlines()
    assert table[0].startswith("Distances to the training digits in the features pixels")
    assert [line.split(",")[0] for line in table if not line.startswith(" ")][1:] == ["fd_pixels", "kid_pixels"]
    assert table[2].startswith("  400 samples, without guidance")
    assert table[3].startswith("  400 samples, guidance scale 2")
    assert table[4] == "  for equal numbers, 400 images against 719 real ones:"
    assert table[7].startswith("  other real digits (null row)")
    assert len({line.index(" (", 30) for line in (table[2], table[3], table[7])}) == 1
    assert max(map(len, table)) <= 80


def test_it_ends_with_a_report_that_shows_images_on_their_way_from_noise(tmp_path, monkeypatch):
    run = write_run(tmp_path / "demo")
    (run / "checkpoints").mkdir()
    save_checkpoint(run / "checkpoints" / "step_00000007.ckpt")
    monkeypatch.setattr(demo, "RUN", run)
    assert demo.write_page() == run / "report.html"
    assert (run / "report" / "denoising.png").is_file()
