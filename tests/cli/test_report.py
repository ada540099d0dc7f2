from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import compose
from hydra.core.hydra_config import HydraConfig
from omegaconf import open_dict

from diffusion_lab.cli.compose import run_folder
from diffusion_lab.cli.hydra_app import initialized_hydra
from diffusion_lab.cli.report import run_and_report
from diffusion_lab.config import ConfigWarning
from tests.config.conftest import CONF


@pytest.fixture
def third_job_of_a_sweep() -> Iterator[None]:
    """Set Hydra's state to that of a job of a multirun."""
    with initialized_hydra("app", CONF):
        composed = compose("train", ["optimizer=adam"], return_hydra_config=True)
    with open_dict(composed):
        composed.hydra.mode = "MULTIRUN"
        composed.hydra.job.num = 2
        composed.hydra.sweep.dir = "outputs/sweeps/now"
    HydraConfig.instance().set_config(composed)
    yield
    HydraConfig.instance().cfg = None


def fail(error: Exception) -> None:
    raise error


def test_the_result_is_returned() -> None:
    assert run_and_report(lambda: 3) == 3


@pytest.mark.parametrize("error", [ValueError("no"), FileNotFoundError("no"), PermissionError("no"), MemoryError("no")])
def test_errors_of_the_user_or_the_machine_are_a_message_and_an_exit_code(
    error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        run_and_report(lambda: fail(error))
    assert caught.value.code == 2
    assert capsys.readouterr().err == "Error: no.\n(DIFFUSION_LAB_TRACEBACK=1 shows where in the code)\n"


def test_bugs_are_raised() -> None:
    with pytest.raises(TypeError):
        run_and_report(lambda: fail(TypeError("a bug")))


def test_traceback_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFUSION_LAB_TRACEBACK", "1")
    with pytest.raises(ValueError, match="no"):
        run_and_report(lambda: fail(ValueError("no")))


@pytest.mark.usefixtures("third_job_of_a_sweep")
def test_a_sweep_continues_after_a_fault(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="no"):
        run_and_report(lambda: fail(ValueError("no")))
    assert capsys.readouterr().err.startswith("Error in job 2: no.\n")


@pytest.mark.usefixtures("third_job_of_a_sweep")
def test_run_folder_of_a_job_lies_in_the_folder_of_the_sweep() -> None:
    assert Path(run_folder("digits")) == Path("outputs/sweeps/now/optimizer-adam")


def test_warning_about_settings_is_one_plain_line(capsys: pytest.CaptureFixture[str]) -> None:
    def task() -> None:
        warnings.warn("seed = 1: an odd choice", ConfigWarning, stacklevel=1)
        warnings.warn("of a library", UserWarning, stacklevel=1)

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        run_and_report(task)
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["Warning: seed = 1: an odd choice.", "Warning: of a library."]
