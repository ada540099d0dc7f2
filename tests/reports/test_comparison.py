"""Comparing runs: what differs, names, and which is best with which certainty."""

from __future__ import annotations

from pathlib import Path

import pytest

from diffusion_lab.reports.comparison import rankings
from diffusion_lab.reports.labels import labels_of
from diffusion_lab.reports.run_reader import read_run
from diffusion_lab.reports.settings import default_values, differs_from_default, short_names, varied_keys
from tests.reports.synthetic_runs import settings, write_evaluation, write_run

CONF = Path(__file__).resolve().parents[2] / "conf"


def read(folder: Path):
    return read_run(folder, folder.name)


def test_varied_keys_and_labels(tmp_path):
    trees = [settings(rate=1e-3), settings(rate=1e-2), settings(rate=1e-2, optimizer="adamw", seed=1)]
    runs = [read(write_run(tmp_path / f"r{index}", tree)) for index, tree in enumerate(trees)]
    varied = varied_keys(runs)
    assert varied == ["training.optimizer.type", "training.optimizer.learning_rate", "compute.seed"]
    assert labels_of(runs, varied) == [
        "adam, learning_rate 0.001",
        "adam, learning_rate 0.01",
        "adamw, learning_rate 0.01",
    ]


def test_where_results_go_is_not_compared(tmp_path):
    trees = [settings(), settings()]
    trees[1]["output"] = {"base_dir": "another"}
    runs = [read(write_run(tmp_path / f"r{index}", tree)) for index, tree in enumerate(trees)]
    assert varied_keys(runs) == []
    assert labels_of(runs, []) == ["r0", "r1"]


def test_labels_of_jobs_are_their_overrides(tmp_path):
    overrides = [("optimizer=adam", "training.epochs=3"), ("optimizer=adamw", "training.epochs=3")]
    runs = [read(write_run(tmp_path / f"j{i}", overrides=own)) for i, own in enumerate(overrides)]
    assert labels_of(runs, []) == ["adam", "adamw"]


def test_short_names_say_something():
    assert list(short_names(["training.optimizer.type", "compute.seed"]).values()) == ["optimizer.type", "seed"]


def test_defaults_are_what_train_composes():
    defaults = default_values(CONF)
    assert defaults["training.optimizer.type"] == "adamw"
    own = {"training.optimizer.type": "adam", "training.epochs": defaults["training.epochs"], "output.base_dir": "x"}
    assert differs_from_default(own, defaults) == ["training.optimizer.type"]
    assert default_values(Path("nowhere")) == {}


class TestRankings:
    def test_the_lowest_loss_is_first(self, tmp_path):
        runs = [read(write_run(tmp_path / f"r{i}", settings(rate=10.0**-i), level=1 / i)) for i in (1, 2, 3)]
        (ranking,) = rankings(runs)
        assert (ranking.title, ranking.better, ranking.group) == ("Validation loss", "lower", "")
        assert [entry.runs for entry in ranking.entries] == [(2,), (1,), (0,)]
        assert ranking.tied is None  # measured once

    def test_seeds_give_error_bars(self, tmp_path):
        levels = {(1e-3, 0): 0.30, (1e-3, 1): 0.32, (1e-2, 0): 0.9, (1e-2, 1): 0.92}
        runs = [
            read(write_run(tmp_path / f"{rate}_{seed}", settings(seed, rate), level=level))
            for (rate, seed), level in levels.items()
        ]
        (ranking,) = rankings(runs)
        first, second = ranking.entries
        assert (first.runs, second.runs) == ((0, 1), (2, 3))
        assert first.value.low is not None
        assert first.value.high is not None
        assert first.value.high - first.value.value == pytest.approx(12.71 * 0.02 / 2, rel=1e-6)
        assert ranking.tied == 0

    def test_overlapping_intervals_are_ties(self, tmp_path):
        runs = []
        for name, value in (("a", 1.5), ("b", 1.6), ("c", 9.0)):
            folder = write_run(tmp_path / name, settings(rate=value))
            write_evaluation(folder, f"{name}/step.ckpt", value)
            runs.append(read(folder))
        ranking = rankings(runs)[0]
        assert ranking.source == "evaluate.py, ddim, 50 steps, guidance 2, 400 samples"
        assert [entry.runs for entry in ranking.entries] == [(0,), (1,), (2,)]
        assert ranking.tied == 1

    def test_losses_that_measure_something_else_are_not_ranked_together(self, tmp_path):
        trees = [settings(rate=1e-3), settings(rate=1e-2), settings(rate=1e-3), settings(rate=1e-2)]
        for tree in trees[2:]:
            tree["model"]["diffusion"]["prediction"] = "epsilon"
        runs = [read(write_run(tmp_path / f"r{index}", tree)) for index, tree in enumerate(trees)]
        found = rankings(runs)
        assert [{run for entry in one.entries for run in entry.runs} for one in found] == [{0, 1}, {2, 3}]
        assert "epsilon" in found[1].group

    def test_runs_without_results_are_left_out(self, tmp_path):
        runs = [read(write_run(tmp_path / "a")), read(write_run(tmp_path / "b", epochs=0))]
        assert rankings(runs) == []
