"""The workspace as an object of wandb-workspaces, what is missing without it, and TensorBoard's start."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
import wandb

from diffusion_lab.reports.run_reader import read_run
from diffusion_lab.tracking.axes import IMAGES
from diffusion_lab.tracking.wandb_run import end_service
from scripts import dashboard, wandb_workspace
from tests.tracking.conftest import Logged
from tests.training.fake_wandb import KEY, FakeWandb, fake_wandb


@pytest.fixture
def no_login(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NETRC", str(tmp_path / "no_netrc"))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    wandb.teardown()


@pytest.fixture
def server(no_login: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeWandb]:
    with fake_wandb() as answering:
        monkeypatch.setenv("WANDB_BASE_URL", answering.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        monkeypatch.setenv("WANDB_MODE", "online")
        yield answering
        end_service()


def test_every_panel_is_in_the_workspace() -> None:
    sections = wandb_workspace.layout()
    built = wandb_workspace.workspace(sections, "me", "flowers", "mine")
    for section, shown in zip(sections, built.sections, strict=True):
        assert [type(panel).__name__ for panel in shown.panels] == [NAMES[panel.kind] for panel in section.panels]
        assert [getattr(panel, "title", None) for panel in shown.panels if hasattr(panel, "title")]
    spec = json.loads(built._to_model().spec.model_dump_json(by_alias=True, exclude_none=True))
    assert spec["section"]["settings"]["xAxis"] == IMAGES
    text = json.dumps(spec)
    assert not [key for section in sections for panel in section.panels for key in panel.keys if not is_in(key, text)]


NAMES = {
    "lines": "LinePlot",
    "media": "MediaBrowser",
    "bar": "BarPlot",
    "table": "WeavePanelSummaryTable",
    "coordinates": "ParallelCoordinatesPlot",
    "settings": "RunComparer",
}


def is_in(key: str, text: str) -> bool:
    """Return whether a key is in a workspace; W&B writes a setting as `config:data.value.loading`."""
    first, _, rest = key.partition(".")
    return f'"{key}"' in text or f"config:{first}.value.{rest}" in text


def test_metrics_of_a_run_have_a_panel(logged: Logged) -> None:
    run = read_run(logged.folder, "tiny")
    run.curves["score/mine"] = run.curves["val/loss"]
    titles = [panel.title for section in wandb_workspace.layout([run]) for panel in section.panels]
    assert "score/mine" in titles


def test_it_is_saved(server: FakeWandb, capsys: pytest.CaptureFixture[str]) -> None:
    assert wandb_workspace.main(["--project", "flowers"]) == 0
    (request,) = [request for request in server.requests if "upsertView" in request]
    variables = json.loads(request.partition(" /graphql ")[2])["variables"]
    assert (variables["entityName"], variables["projectName"]) == ("me", "flowers")
    assert "train/loss" in variables["spec"]
    assert f"workspace: {server.url}/me/flowers?nw=" in capsys.readouterr().out


@pytest.mark.usefixtures("no_login")
def test_without_an_account_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert wandb_workspace.main([]) == 2
    assert "Error: writing a workspace needs a login for http://127.0.0.1:9" in capsys.readouterr().err
    assert wandb_workspace.main(["--print"]) == 0
    assert "  Loss (train/loss, val/loss, val/loss_raw)\n" in capsys.readouterr().out


def test_without_the_package_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def missing(name: str) -> object:
        if name.startswith("wandb_workspaces"):
            raise ImportError(name)
        return import_module(name)

    monkeypatch.setattr(wandb_workspace, "import_module", missing)
    assert wandb_workspace.main([]) == 2
    assert "the package wandb-workspaces is missing: pip install wandb-workspaces" in capsys.readouterr().err


class TestDashboard:
    def test_it_shows_all_pictures_of_the_runs(self, logged: Logged) -> None:
        words = dashboard.dashboard_command(logged.folder, 6007)
        assert words[1:] == [
            *("-m", "tensorboard.main", "--logdir", str(logged.folder)),
            *("--samples_per_plugin", "images=1000", "--port", "6007"),
        ]

    def test_no_run_logs_to_it(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert dashboard.main([str(tmp_path)]) == 2
        assert "has logged to TensorBoard" in capsys.readouterr().err

    def test_it_is_missing(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        monkeypatch.setattr(dashboard, "find_spec", lambda _: None)
        assert dashboard.main([]) == 2
        assert "Error: TensorBoard is missing: pip install tensorboard" in capsys.readouterr().err
