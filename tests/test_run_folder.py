"""The run folder: what explains a run, how it stands, and whose folder is left alone."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import yaml

from diffusion_lab import run_folder
from diffusion_lab.config.schema import OutputSettings
from diffusion_lab.run_folder import RunFolder, check_writable, environment, git_commit


@pytest.fixture
def folder(tmp_path):
    return RunFolder.of(settings(tmp_path / "run"))


def settings(base: Path) -> OutputSettings:
    subdirs = {"logs": "logs", "checkpoints": "weights", "samples": "pictures/here", "generated": "generated"}
    return OutputSettings.model_validate({"base_dir": str(base), "subdirs": subdirs})


def status_of(folder):
    return json.loads((folder.base / "status.json").read_text())


def test_folders_follow_the_settings_and_are_made_only_when_asked(folder, tmp_path):
    base = tmp_path / "run"
    assert (folder.base, folder.checkpoints, folder.samples) == (base, base / "weights", base / "pictures" / "here")
    folder.check_free(reuse=False)
    assert not base.exists()
    folder.create({}, keep=False)
    assert all(path.is_dir() for path in (folder.logs, folder.checkpoints, folder.samples))


def test_the_configuration_can_be_read_back(folder):
    config = {"experiment": "катя", "compute": {"seed": 0, "device": None}, "betas": [0.9, 0.999], "rate": 1e-4}
    folder.create(config, keep=False)
    assert yaml.safe_load((folder.base / "config.yaml").read_text(encoding="utf-8")) == config


def test_the_environment_tells_versions_command_and_commit(folder):
    folder.create({}, keep=False)
    told = json.loads((folder.base / "environment.json").read_text())
    assert told == environment()
    assert told["packages"]["torch"].startswith("2.")
    assert told["command"] == sys.argv
    assert told["git_commit"] == git_commit()


def test_a_run_that_ends_well_is_finished(folder):
    folder.create({}, keep=False)
    with folder.running():
        assert status_of(folder)["state"] == "running"
        assert status_of(folder)["pid"] == os.getpid()
    assert status_of(folder)["state"] == "finished"
    assert not list(folder.base.glob(".status*"))


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), KeyboardInterrupt(), SystemExit(3)])
def test_a_run_that_fails_says_why_and_raises_again(folder, error):
    folder.create({}, keep=False)
    with pytest.raises(type(error)) as caught, folder.running():
        raise error
    assert caught.value is error
    status = status_of(folder)
    assert (status["state"], status["why"]) == ("failed", f"{type(error).__name__}: {error}")
    assert "Traceback" in (folder.logs / "run.log").read_text()


def test_log_lines_and_warnings_go_to_the_log_while_the_run_goes_on(folder):
    folder.create({}, keep=False)
    handlers = list(logging.getLogger().handlers)
    with folder.running():
        logging.getLogger("some.library").warning("heard")
        warnings.warn("doubtful", UserWarning, stacklevel=1)
    logging.getLogger("some.library").warning("not heard")
    log = (folder.logs / "run.log").read_text()
    assert "WARNING some.library: heard" in log
    assert "doubtful" in log
    assert "not heard" not in log
    assert logging.getLogger().handlers == handlers


@pytest.mark.parametrize("state", ["running", "failed", "finished"])
def test_a_folder_with_a_run_is_left_alone(folder, state):
    folder.create({}, keep=False)
    folder.write_status(state)
    with pytest.raises(
        ValueError, match=rf"output\.base_dir holds a run already, got .* \({state}\).*output\.overwrite=true"
    ):
        folder.check_free(reuse=False)
    folder.check_free(reuse=True)


def test_a_folder_holds_its_own_checkpoints_and_no_others(folder, tmp_path):
    assert folder.holds(folder.checkpoints / "last.ckpt")
    assert not folder.holds(tmp_path / "other" / "last.ckpt")


def test_a_damaged_status_is_still_a_run(folder):
    folder.create({}, keep=False)
    (folder.base / "status.json").write_text("{")
    with pytest.raises(ValueError, match="in an unknown state"):
        folder.check_free(reuse=False)


@pytest.mark.parametrize("resumed", [True, False])
def test_an_earlier_run_is_removed_unless_it_goes_on(folder, resumed):
    folder.create({}, keep=False)
    ours = [
        folder.checkpoints / "last.ckpt",
        folder.samples / "epoch_0010.png",
        folder.logs / "metrics.jsonl",
        folder.base / "summary.json",
    ]
    theirs = [folder.checkpoints / "notes.txt", folder.samples / "mine.png", folder.base / "todo.md"]
    for file in (*ours, *theirs):
        file.write_text("x")
    folder.create({}, keep=resumed)
    assert [file.exists() for file in ours] == [resumed] * 4
    assert all(file.exists() for file in theirs)


def test_a_file_in_the_way_is_no_folder_to_write(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(
        PermissionError, match=r"output\.base_dir must be a folder that can be written, got .*file/run'"
    ):
        check_writable(tmp_path / "file" / "run", "output.base_dir")


def test_a_folder_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    """Asked of the system: the user who runs the tests may be allowed everything."""
    monkeypatch.setattr(run_folder.os, "access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(PermissionError, match=r"\(.* cannot\)"):
        check_writable(tmp_path / "a" / "b", "output.base_dir")
    assert not (tmp_path / "a").exists()


def test_outside_a_checkout_there_is_no_commit(monkeypatch):
    def fails(*arguments, **options):
        raise subprocess.CalledProcessError(128, "git")

    monkeypatch.setattr(run_folder.subprocess, "run", fails)
    assert git_commit() is None


def test_a_package_that_is_not_there_has_no_version(monkeypatch):
    monkeypatch.setattr(run_folder, "PACKAGES", ("torch", "no-such-package"))
    assert environment()["packages"]["no-such-package"] is None
