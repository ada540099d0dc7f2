"""What goes to the server after training: results of an online run by default, and the report of a sweep."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from diffusion_lab.tracking.sweep_report import log_sweep_report
from tests.reports.synthetic_runs import settings, write_run
from tests.tracking.conftest import measure, sample
from tests.training.fake_wandb import FakeWandb, logged_in
from tests.training.tiny import tiny_run


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeWandb]:
    for name in ("WANDB_MODE", "WANDB_PROJECT", "WANDB_ENTITY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no_netrc"))
    with logged_in(monkeypatch) as answering:
        yield answering


def test_results_and_the_report_of_a_sweep_are_sent(server: FakeWandb, tmp_path: Path) -> None:
    folder = tmp_path / "sweep" / "job"
    logger = {"backends": ["wandb"], "mode": "online"}
    tiny_run(folder, {"logger": logger, "data.count": 40, "data.validation_split": {"fraction": 0.4, "seed": 0}})
    run_id = (folder / "logs" / "wandb_id").read_text().split()[0]
    server.requests.clear()
    sample(folder, wanted="auto")
    measure(folder, wanted="auto")
    log_sweep_report(tmp_path / "sweep")
    logged = {key for line in server.history for key in line}
    assert {"generated/samples", "evaluation/kid_pixels", "evaluation/results", "evaluation/nearest"} <= logged
    streams = [request.partition("/file_stream")[0] for request in server.requests if "file_stream" in request[:80]]
    assert f"/{run_id}" in streams[0]
    kinds = [artifact["artifactTypeName"] for artifact in server.artifacts]
    assert kinds == ["report", "run_table", "report"]
    assert not [request[:2000] for request in server.requests if str(tmp_path) in request]
    assert "WANDB_DATA_DIR" in os.environ  # as before


def test_environment_keeps_the_report_of_a_sweep_offline(
    server: FakeWandb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_run(tmp_path / "sweep" / "job", settings() | {"logger": {"backends": ["wandb"], "mode": "online"}})
    (folder / "logs" / "wandb_id").write_text("abcd1234\n")
    monkeypatch.setenv("WANDB_MODE", "offline")
    log_sweep_report(tmp_path / "sweep")
    assert not server.requests


def test_unreachable_server_is_a_warning(
    server: FakeWandb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_run(tmp_path / "run", {"logger": {"backends": ["wandb"], "mode": "online"}})
    server.known_account = False
    sample(tmp_path / "run", wanted="auto")
    assert "Warning: the results are not on W&B" in capsys.readouterr().err.replace("The results", "the results")
    assert list((tmp_path / "run").glob("images/generated/*.png"))
