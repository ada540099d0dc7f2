"""Settings with ten faults at once: one message lists all of them, and nothing is written."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from diffusion_lab.config import get_default_config
from tests.config.conftest import put
from tests.faults.conftest import Start

pytestmark = pytest.mark.faults

TEN = {
    "training.optimizer.learnin_rate": (1, "unknown key (did you mean 'training.optimizer.learning_rate'?)"),
    "traning": (1, "unknown key (did you mean 'training'?)"),
    "training.optimizer.type": ("adamm", "(did you mean 'adam'?)"),
    "training.epochs": (0, "must be at least 1"),
    "training.log_interval": (True, "must be an integer"),
    "training.ema.decay": (1.2, "must be less than 1"),
    "data.loading.batch_size": ("many", "must be an integer"),
    "model.diffusion.beta_end": (-1, "must be greater than 0"),
    "model.architecture.use_attention": ([True] * 7, "must have one entry per stage"),
    "output.subdirs.logs": ("../../x", "stays inside output.base_dir"),
}
IN_SAMPLE = {
    "num_sample": (1, "unknown key (did you mean 'num_samples'?)"),
    "samplr": (1, "unknown key"),
    "sampler.stpes": (1, "unknown key (did you mean 'sampler.steps'?)"),
    "sampler.steps": (0, "must be at least 1"),
    "generation.sampling.batch_size": (0, "must be at least 1"),
    "generation.sampling.num_samples": ("x", "must be an integer"),
    "guidance.rescale": (2, "must be at most 1"),
    "guidance.interval": ([2, 1], "the first below the second"),
    "compute.device": ("gpu", "must be"),
    "output.subdirs.generated": ("/tmp", "stays inside output.base_dir"),
    "generation.checkpoint": ("nowhere", "must be an existing checkpoint"),
}


def typed(faults: dict[str, tuple[object, str]]) -> list[str]:
    return [
        f"{key}={str(value).replace(' ', '').replace('True', 'true').replace('False', 'false')}"
        for key, (value, _) in faults.items()
    ]


def assert_all_reported(output: str, faults: dict[str, tuple[object, str]]) -> None:
    head, *lines = output.strip().splitlines()
    assert head == f"Error: {len(faults)} settings are wrong:"
    assert len(lines) == len(faults)
    for key, (_, words) in faults.items():
        assert any(line.startswith(f"  {key} = ") and words in line for line in lines), (key, lines)


@pytest.mark.parametrize(("script", "faults"), [("train.py", TEN), ("sample.py", IN_SAMPLE)])
def test_ten_faults_of_a_command_line(
    start: Start, tmp_path: Path, script: str, faults: dict[str, tuple[object, str]]
) -> None:
    """Row 23: a mistyped key, a wrong type, a value out of bounds, ten faults at once."""
    run = start(script, *typed(faults))
    assert run.wait() == 2
    assert_all_reported(run.err, faults)
    assert not list((tmp_path / "work").iterdir())


def test_ten_faults_of_a_file(start: Start, tmp_path: Path) -> None:
    """Row 23: the same in a file, each with its line."""
    tree = get_default_config()
    put(tree, "data.paths.train", str(tmp_path / "images"))
    for key, (value, _) in TEN.items():
        put(tree, key, value)
    (tmp_path / "images").mkdir()
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(tree))
    run = start("-m", "diffusion_lab", str(tmp_path / "mine.yaml"))
    assert run.wait() == 2
    assert_all_reported(run.err, TEN)
    assert all("mine.yaml:" in line for line in run.err.strip().splitlines()[1:])
    assert not list((tmp_path / "work").iterdir())
