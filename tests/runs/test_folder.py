"""The run folder: description and status of a run, and protection of other folders."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from PIL import Image

from diffusion_lab.checkpoint import Manifest, verify
from diffusion_lab.checkpoint.files import step_name
from diffusion_lab.cli.yaml_file import read_yaml
from diffusion_lab.config.schema import OutputSettings
from diffusion_lab.faults import traceback_note
from diffusion_lab.files import writing
from diffusion_lab.files.writing import check_writable
from diffusion_lab.runs.epoch_images import save_epoch_image
from diffusion_lab.runs.folder import RunFolder
from diffusion_lab.runs.status import write_status
from diffusion_lab.runtime import process_identity
from diffusion_lab.runtime.environment import environment, git_commit
from diffusion_lab.runtime.process_identity import own_identity
from diffusion_lab.training.checkpoint_io import AtomicCheckpointIO
from tests.another_process import holding


@pytest.fixture
def folder(tmp_path):
    return RunFolder.from_settings(settings(tmp_path / "run"))


def settings(base: Path) -> OutputSettings:
    subdirs = {"logs": "logs", "checkpoints": "weights", "samples": "pictures/here", "generated": "generated"}
    return OutputSettings.model_validate({"base_dir": str(base), "subdirs": subdirs})


def status_of(folder):
    return json.loads((folder.base / "status.json").read_text())


def test_folders_follow_the_settings_and_are_created_on_demand(folder, tmp_path):
    base = tmp_path / "run"
    assert (folder.base, folder.checkpoints, folder.samples) == (base, base / "weights", base / "pictures" / "here")
    folder.check_free("new")
    assert not base.exists()
    folder.create({}, keep=False)
    assert all(path.is_dir() for path in (folder.logs, folder.checkpoints, folder.samples))


def test_the_configuration_can_be_read_back(folder):
    config = {"experiment": "катя", "compute": {"seed": 0, "device": None}, "betas": [0.9, 0.999], "rate": 1e-4}
    folder.create(config, keep=False)
    assert yaml.safe_load((folder.base / "config.yaml").read_text(encoding="utf-8")) == config


def test_interpolation_syntax_is_read_back_unchanged(folder):
    paths = ["photos ${2024}", "${oc.env:HOME}", r"a\${b}", r"\\${x", "$ {c} }", r"plain\path"]
    config = {"experiment": "mine", "data": {"paths": {"train": paths[0]}}, "all": paths}
    folder.create(config, keep=False)
    assert read_yaml(folder.base / "config.yaml") == config


def test_environment_records_versions_command_and_commit(folder):
    folder.create({}, keep=False)
    recorded = json.loads((folder.base / "environment.json").read_text())
    assert recorded == environment()
    assert recorded["packages"]["torch"].startswith("2.")
    assert recorded["command"] == sys.argv
    assert recorded["git_commit"] == git_commit()


def test_successful_run_is_finished(folder):
    folder.create({}, keep=False)
    with folder.running():
        assert status_of(folder)["state"] == "running"
        assert status_of(folder)["pid"] == os.getpid()
    assert status_of(folder)["state"] == "finished"
    assert not list(folder.base.glob(".status*"))


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), KeyboardInterrupt(), SystemExit(3)])
def test_failed_run_records_the_reason_and_re_raises(folder, error):
    folder.create({}, keep=False)
    with pytest.raises(type(error)) as caught, folder.running():
        raise error
    assert caught.value is error
    status = status_of(folder)
    assert (status["state"], status["why"]) == ("failed", f"{type(error).__name__}: {error}")
    assert "Traceback" in (folder.logs / "run.log").read_text()


def test_unwritable_status_does_not_hide_how_the_run_ended(folder, monkeypatch):
    def full(path, text):
        raise OSError(5, "Input/output error", str(path))

    def fail():
        with folder.running():
            monkeypatch.setattr(Path, "write_text", full)
            raise KeyError("what went wrong")

    folder.create({}, keep=False)
    message = r"status\.json cannot be written \(Input/output error\).* failed"
    with pytest.warns(UserWarning, match=message), pytest.raises(KeyError, match="what went wrong"):
        fail()


@pytest.mark.parametrize("why", ["what went wrong", "ü" * 10_000])
def test_status_is_overwritten_in_place_on_a_full_disk(folder, monkeypatch, why):
    def full(path, text):
        raise OSError(28, "No space left on device", str(path))

    def fail():
        with folder.running():
            monkeypatch.setattr(Path, "write_text", full)
            raise ValueError(why)

    folder.create({}, keep=False)
    with pytest.raises(ValueError, match=why):
        fail()
    status = status_of(folder)
    assert status["state"] == "failed"
    assert status["why"].startswith(f"ValueError: {why[:100]}")
    assert not list(folder.base.glob(".*.partial"))


def test_status_is_not_truncated_if_its_blocks_are_too_small(tmp_path, monkeypatch):
    def full(path, text):
        raise OSError(28, "No space left on device", str(path))

    file = tmp_path / "status.json"
    write_status(file, {"state": "running"})
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        write_status(file, {"state": "failed", **{str(number): "x" * 900 for number in range(100)}})
    assert json.loads(file.read_bytes()) == {"state": "running"}


def test_unwritable_log_is_not_named_for_the_traceback(folder, monkeypatch, capsys):
    def full(stream, text):
        raise OSError(28, "No space left on device")

    def fail():
        with folder.running():
            monkeypatch.setattr(logging.StreamHandler, "flush", lambda handler: full(handler, ""))
            raise ValueError("what went wrong")

    folder.create({}, keep=False)
    with pytest.raises(ValueError, match="what went wrong") as caught:
        fail()
    assert traceback_note(caught.value) is None
    assert (
        "run.log cannot be written (No space left on device), so warnings are only shown on standard error"
        in capsys.readouterr().err
    )


def test_folder_that_cannot_be_created_on_a_full_disk_is_named(folder, monkeypatch):
    def full(path, text):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_text", full)
    message = r"output\.base_dir .*no space left on device; free some space, or choose another folder"
    with pytest.raises(OSError, match=message):
        folder.create({}, keep=False)


def test_log_lines_and_warnings_go_to_the_log_during_the_run(folder):
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
def test_folder_with_a_run_is_refused(folder, state):
    folder.create({}, keep=False)
    folder.write_status(state)
    with pytest.raises(
        ValueError, match=rf"output\.base_dir holds a run already \({state}\), got .*output\.overwrite=true"
    ):
        folder.check_free("new")
    folder.check_free("replace")
    folder.check_free("continue")


def test_running_run_is_detected_without_its_lock(folder):
    folder.create({}, keep=False)
    with holding(folder.base) as holder:
        (folder.base / ".lock").unlink()
        status = {"state": "running", **identity_of(holder.pid)}
        (folder.base / "status.json").write_text(json.dumps(status))
        for purpose in ("new", "replace", "continue"):
            with pytest.raises(ValueError, match=rf"in use by another process, got .* \(process {holder.pid} on "):
                folder.check_free(purpose)
    folder.check_free("continue")  # the process is gone
    (folder.base / "status.json").write_text(json.dumps({**status, "pid": 1, "started": "before the last start"}))
    folder.check_free("continue")  # the process of this number is another


def identity_of(pid):
    return {**own_identity(), "pid": pid, "started": process_identity._started(pid)}


@pytest.mark.parametrize("purpose", ["new", "replace", "continue"])
@pytest.mark.parametrize(
    "name",
    ["status.json", "config.yaml", "environment.json", "summary.json", "logs/metrics.jsonl", "logs/run.log",
     "logs/wandb_id", "logs/wandb", "logs/tensorboard", "pictures/here/epoch_0010.png"],
)  # fmt: skip
def test_link_or_folder_in_place_of_a_file_is_refused(folder, tmp_path, name, purpose):
    folder.create({}, keep=False)
    folder.write_status("finished")
    (tmp_path / "elsewhere").write_text("precious")
    place = folder.base / name
    place.unlink(missing_ok=True)
    place.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=rf"{name} is in the way: .* is a link to .*elsewhere"):
        folder.check_free(purpose)
    place.unlink()
    place.symlink_to("nowhere")
    with pytest.raises(ValueError, match=rf"{name} is in the way: .* is a link to nowhere"):
        folder.check_free(purpose)
    place.unlink()
    place.mkdir()
    if place.name in ("wandb", "tensorboard"):
        folder.check_free("continue")
    else:
        with pytest.raises(ValueError, match=rf"{name} is in the way: .* not a regular file"):
            folder.check_free(purpose)
    assert (tmp_path / "elsewhere").read_text() == "precious"


@pytest.mark.parametrize("name", ["config.yaml", "summary.json", "logs/run.log", "pictures/here/epoch_0010.png"])
def test_files_that_no_run_wrote_are_never_replaced(folder, name):
    file = folder.base / name
    file.parent.mkdir(parents=True)
    file.write_text("mine")
    with pytest.raises(ValueError, match=rf"output\.base_dir holds .*{file.name} already"):
        folder.check_free("new")
    with pytest.raises(ValueError, match=rf"output\.base_dir holds .*{file.name}, and nothing shows that a run wrote"):
        folder.check_free("replace")
    assert file.read_text() == "mine"


def test_folder_holds_only_its_own_checkpoints(folder, tmp_path):
    assert folder.contains(folder.checkpoints / "last.ckpt")
    assert not folder.contains(tmp_path / "other" / "last.ckpt")


def test_damaged_status_still_counts_as_a_run(folder):
    folder.create({}, keep=False)
    (folder.base / "status.json").write_text("{")
    with pytest.raises(ValueError, match="in an unknown state"):
        folder.check_free("new")


@pytest.mark.parametrize("resumed", [True, False])
def test_earlier_run_is_removed_unless_resumed(folder, resumed):
    folder = replace(folder, run_id="first")
    folder.create({}, keep=False)
    folder.write_status("finished")
    save_checkpoint(folder, 10, "first")
    (folder.checkpoints / "best.ckpt").symlink_to(step_name(10))
    save_epoch_image(Image.new("L", (8, 8)), folder.samples, 10)
    ours = [
        folder.checkpoints / step_name(10),
        folder.checkpoints / "best.ckpt",
        folder.samples / "epoch_0010.png",
        folder.logs / "metrics.jsonl",
        folder.base / "summary.json",
    ]
    theirs = [
        folder.checkpoints / "notes.txt",
        folder.checkpoints / "my_best_model.ckpt",
        folder.checkpoints / "step_00000010_good.ckpt",
        folder.samples / "mine.png",
        folder.samples / "epoch_best.png",
        folder.base / "todo.md",
    ]
    for file in (*ours[3:], *theirs):
        file.write_text("x")
    folder.check_obstacles("continue" if resumed else "replace", range(11, 20), range(11, 20))
    replace(folder, run_id="first" if resumed else "second").create({}, keep=resumed)
    assert [file.exists() for file in ours] == [resumed] * 5
    assert all(file.exists() for file in theirs)


@pytest.mark.parametrize("harm", ["no manifest", "another run", "folder", "link", "best", "picture"])
def test_files_that_the_earlier_run_did_not_write_are_refused(folder, harm):
    folder = replace(folder, run_id="first")
    folder.create({}, keep=False)
    folder.write_status("finished")
    place = folder.checkpoints / step_name(10)
    if harm == "picture":
        place = folder.samples / "epoch_0010.png"
        Image.new("L", (8, 8)).save(place)
    elif harm == "best":
        place = folder.checkpoints / "best.ckpt"
        place.write_bytes(b"mine")
    elif harm == "folder":
        place.mkdir()
    elif harm == "link":
        (folder.base / "mine").write_bytes(b"mine")
        place.symlink_to(folder.base / "mine")
    else:
        save_checkpoint(folder, 10, "another")
        if harm == "no manifest":
            Manifest.path_of(place).unlink()
    for purpose in ("replace", "continue"):
        with pytest.raises(ValueError, match=rf"in place of those that this run would write.*{place.name}"):
            folder.check_obstacles(purpose, range(5, 20), range(5, 20))
    if harm in ("no manifest", "another run"):  # it would be taken for the newest of the run
        with pytest.raises(ValueError, match=place.name):
            folder.check_obstacles("continue", range(5, 8), range(5, 8))
    elif harm != "best":  # the run does not come so far
        folder.check_obstacles("continue", range(5, 8), range(5, 8))
    assert os.path.lexists(place)


def test_damaged_checkpoint_of_the_run_is_moved_aside(folder):
    folder = replace(folder, run_id="first")
    folder.create({}, keep=False)
    place = folder.checkpoints / step_name(10)
    for number in ("", "1"):
        save_checkpoint(folder, 10, "first")
        place.write_bytes(b"damaged" + number.encode())
        folder.check_obstacles("continue", range(5, 20), range(5, 20))
        with pytest.warns(UserWarning, match=rf"{step_name(10)} was damaged: it is kept as .*\.damaged{number}"):
            save_checkpoint(folder, 10, "first")
        assert verify(place)
        assert place.with_name(f"{place.name}.damaged{number}").read_bytes() == b"damaged" + number.encode()


def save_checkpoint(folder: RunFolder, step: int, run: str) -> None:
    content = {"diffusion_lab": {"step": step, "run_id": run}}
    AtomicCheckpointIO().save_checkpoint(content, folder.checkpoints / step_name(step))


def test_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(PermissionError, match=r"output\.base_dir must be a writable folder, got .*file/run'"):
        check_writable(tmp_path / "file" / "run", "output.base_dir")


def test_read_only_folder_is_refused(tmp_path, monkeypatch):
    """The check is mocked: the user who runs the tests may have all permissions."""
    monkeypatch.setattr(writing.os, "access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(PermissionError, match=r"\(.* is not writable\)"):
        check_writable(tmp_path / "a" / "b", "output.base_dir")
    assert not (tmp_path / "a").exists()


def test_outside_a_checkout_there_is_no_commit(monkeypatch):
    def fails(*arguments, **options):
        raise subprocess.CalledProcessError(128, "git")

    monkeypatch.setattr(subprocess, "run", fails)
    assert git_commit() is None


def test_missing_package_has_no_version(monkeypatch):
    monkeypatch.setattr("diffusion_lab.runtime.environment.PACKAGES", ("torch", "no-such-package"))
    assert environment()["packages"]["no-such-package"] is None
