"""A run writes all its files regardless of rank variables in the environment."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from lightning.fabric.utilities.rank_zero import _get_rank
from lightning.pytorch.utilities import rank_zero_only

from tests.training.tiny import tiny_run

LEFT_OVER = (
    {"RANK": "1", "WORLD_SIZE": "2"},
    {"LOCAL_RANK": "1"},
    {"SLURM_PROCID": "1"},
    {"JSM_NAMESPACE_RANK": "3"},
    {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_LOCAL_RANK": "1"},
    {"PMI_SIZE": "2", "PMI_RANK": "1", "PMIX_RANK": "1"},
    {"PALS_RANKID": "1", "PALS_LOCAL_RANKID": "1", "MV2_COMM_WORLD_RANK": "1"},
    {"SLURM_NTASKS": "4", "SLURM_PROCID": "0"},  # without SLURM_NTASKS_PER_NODE Lightning ends with an error
    {"SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "4", "SLURM_PROCID": "3", "SLURM_LOCALID": "3", "SLURM_NODEID": "0"},
)


@pytest.mark.parametrize("variables", LEFT_OVER, ids=str)
def test_metrics_are_written_whatever_the_rank(
    variables: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(rank_zero_only, "rank", _get_rank() or 0)  # as Lightning finds it when it is imported
    tiny_run(tmp_path, {"logger.backends": ["tensorboard"]})
    lines = (tmp_path / "logs" / "metrics.jsonl").read_text().splitlines()
    assert [line["step"] for line in map(json.loads, lines) if "train/loss" in line] == list(range(6))
    assert list((tmp_path / "logs" / "tensorboard").rglob("events.*"))
    assert rank_zero_only.rank == (_get_rank() or 0), "another program in this process may rely on it"
    assert {name: os.environ.get(name) for name in variables} == variables
