"""What of a run leaves the machine with a page."""

from __future__ import annotations

import pytest

from diffusion_lab.reports.published import ABSOLUTE_PATH, published
from diffusion_lab.reports.run_reader import read_run
from tests.reports.synthetic_runs import write_run


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("data.paths.train=/home/anna/flowers", "data.paths.train=flowers"),
        ("data.paths.train='/home/anna/my flowers'", "data.paths.train='my flowers'"),
        ("data.paths.train=[~/roses,/home/anna/tulips]", "data.paths.train=[roses,tulips]"),
        ("data={root: /home/anna/flowers}", "data={root: flowers}"),
        (r"data.paths.train=C:\Users\anna\flowers", "data.paths.train=flowers"),
        ("data.paths.train=flowers/red", "data.paths.train=flowers/red"),
        ("training.optimizer.learning_rate=1e-3", "training.optimizer.learning_rate=1e-3"),
    ],
)
def test_overrides_name_no_folders(override, expected, tmp_path):
    run = published(read_run(write_run(tmp_path / "job", overrides=(override,)), "job"))
    assert run.job.overrides == (expected,)


def test_pattern_leaves_ratios_alone():
    assert ABSOLUTE_PATH.sub("", "name=a/b c~d") == "name=a/b c~d"
