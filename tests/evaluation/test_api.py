"""Evaluation from Python refuses what its arguments cannot mean, and says which one it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from diffusion_lab.config.faults import ConfigError
from diffusion_lab.evaluation import evaluate_checkpoint


def test_a_split_is_of_the_run_and_not_of_a_reference(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r'evaluation\.split = "val": has no effect, since evaluation\.reference'):
        evaluate_checkpoint(tmp_path, reference=tmp_path, split="val")
