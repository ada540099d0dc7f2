"""Redaction of secrets and private paths in strings, files of runs and exports."""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from diffusion_lab.checkpoint.export import public_metadata, read_export
from diffusion_lab.commands.checkpoint import main as checkpoint_command
from diffusion_lab.config.validate import parse_config
from diffusion_lab.console.redaction import (
    REDACTED,
    names_secret,
    redacted,
    redacted_command,
    secret_values,
    without_folders,
    without_values,
)
from diffusion_lab.faults import Fault
from diffusion_lab.sweeps.folders import job_folder
from tests.commands.conftest import SMALL, succeeds
from tests.training.tiny import TinySource, tiny_run, tiny_tree

SECRET = "s3cr3t-Of-The-User"


@pytest.mark.parametrize(
    "name",
    [
        "api_key",
        "hydra.job.env_set.WANDB_API_KEY",
        "apikey",
        "accessToken",
        "data.hf_token",
        "client-secret",
        "PASSWORD",
        "db_passwd",
        "aws.credentials",
        "Authorization",
    ],
)
def test_names_of_secrets(name: str) -> None:
    assert redacted({name: SECRET}) == {name: REDACTED}
    assert redacted_command([f"+{name}={SECRET}"]) == [f"+{name}={REDACTED}"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("monkey", "a"),
        ("keyboard", "a"),
        ("num_tokens", 64),
        ("token_dim", 64),
        ("save_token", True),
        ("api_key", None),
    ],
)
def test_names_and_values_that_are_not_secrets(name: str, value: object) -> None:
    assert not names_secret(name, value)


def test_numbers_are_secrets_if_the_name_is_unambiguous() -> None:
    assert redacted({"password": 1234, "api_key": 1234}) == {"password": REDACTED, "api_key": REDACTED}


def test_everything_below_a_secret_key_is_hidden() -> None:
    tree = {"data": [{"tokens": {"github": SECRET, "others": [SECRET]}}], "root": f"s3://anna:{SECRET}@host/bucket"}
    assert SECRET not in json.dumps(redacted(tree))
    assert redacted(tree)["root"] == f"s3://{REDACTED}@host/bucket"


@pytest.mark.parametrize(
    "argument",
    [
        f"data.token='{SECRET} and, more'",
        f"data={{root: x, password: '{SECRET}', n: 1}}",
        f"url=https://anna:{SECRET}@host",
    ],
)
def test_secrets_within_an_argument(argument: str) -> None:
    (found,) = redacted_command([argument])
    assert SECRET not in found


REPEATED = [
    ["--token", SECRET, f"data.paths.train=https://host/{SECRET}/images"],
    [f"+hydra.job.env_set={{TOKEN: {SECRET}, A: b}}", f"name={SECRET}"],
    [f"+data.password={SECRET}", f"+data.url=https://anna:{SECRET}@host"],
    [f"+data.url=https://anna:{SECRET}@host", f"name={SECRET}"],
    [f"+data.url=https://host/a?size=2&api_key={SECRET}", f"name={SECRET}"],
    [f"name={SECRET}", f"+secret={SECRET}"],
]


@pytest.mark.parametrize("command", REPEATED)
def test_a_secret_is_hidden_wherever_it_is_repeated(command: list[str]) -> None:
    assert secret_values({}, command) == {SECRET}
    assert SECRET not in " ".join(redacted_command(command))
    assert redacted({"data": {"root": f"a/{SECRET}"}}, secret_values({}, command)) == {"data": {"root": "a/[redacted]"}}


def test_a_secret_in_the_settings_is_hidden_in_other_settings() -> None:
    tree = {"data": {"token": SECRET, "headers": [f"Bearer {SECRET}"], "url": f"https://host?access_token={SECRET}2"}}
    assert redacted(tree)["data"] == {
        "token": REDACTED,
        "headers": [f"Bearer {REDACTED}"],
        "url": f"https://host?access_token={REDACTED}",
    }
    assert redacted({"password": "adam", "optimizer": "adamw"})["optimizer"] == "adamw"  # too short to be looked for


def test_command_without_secrets_is_unchanged() -> None:
    command = ["train.py", "-m", "optimizer=adam,adamw", "data.paths.train=a b", "+model.x={a: 1}", "labels=[1,2]"]
    assert redacted_command(command) == command


def test_running_text() -> None:
    secrets = secret_values({"data": {"token": SECRET, "pin_token": "1"}}, [f"+api_key='{SECRET}2'"])
    assert secrets == {SECRET, f"{SECRET}2"}  # a single character is in too many words
    assert without_values(f"refused {SECRET}2, {SECRET}", secrets) == f"refused {REDACTED}, {REDACTED}"


@pytest.mark.parametrize("path", ["/home/anna/flowers", "~/flowers", "C:\\Users\\anna\\flowers"])
def test_folders_of_a_user(path: str) -> None:
    assert without_folders({"a": [path], "b": "data/flowers"}) == {"a": ["flowers"], "b": "data/flowers"}


def test_a_fault_does_not_repeat_a_secret() -> None:
    assert SECRET not in str(Fault("data.api_token", "unknown key", SECRET))


def test_redacted_value_is_refused(tmp_path: Path) -> None:
    """Settings written by a run are refused if they lack a secret, with an explanation."""
    tree = tiny_tree(
        tmp_path, {"data.type": "tests.console.test_redaction.LockedSource", "data.access_token": REDACTED}
    )
    with pytest.raises(ValueError, match=r"data\.access_token = .*: a secret that was left out .* give its value"):
        parse_config(tree)


def test_folders_of_jobs_keep_secrets_apart_and_to_themselves() -> None:
    names = [job_folder([f"data.api_token={SECRET}{number}"]) for number in range(2)]
    assert names[0] != names[1]
    assert SECRET not in "".join(names)


class LockedSource(TinySource):
    """Source that needs a token, and reveals it on failure, as careless libraries do."""

    def __init__(
        self, image_size: int, channels: int, access_token: str, address: str = "", broken: bool = False
    ) -> None:
        super().__init__(image_size, channels)
        assert access_token == SECRET
        self.broken = broken

    def load_batch(self, *arguments: Any) -> Any:
        if self.broken:
            raise ConnectionError(f"refused the token {SECRET}")
        return super().load_batch(*arguments)


CHANGES = {
    "data.type": "tests.console.test_redaction.LockedSource",
    "data.access_token": SECRET,
    "data.address": f"https://anna:{SECRET}@host/{SECRET}",
    "logger": {"backends": ["wandb", "tensorboard"]},
    "training.visualization": {"enabled": True, "interval": 1, "num_samples": 3, "guidance_scale": 1.0},
}


def files_holding(text: str, folder: Path) -> list[Path]:
    return [file for file in folder.rglob("*") if file.is_file() and text.encode() in file.read_bytes()]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Create a run whose command line contains a secret, too."""
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "train.py"), f"+hydra.job.env_set.SOME_API_KEY={SECRET}"])
    tiny_run(tmp_path / "run", CHANGES)
    return tmp_path / "run"


def test_no_file_of_a_run_holds_a_secret(run: Path) -> None:
    assert files_holding(SECRET, run) == []
    assert len(files_holding(REDACTED, run)) >= 5  # config.yaml, environment.json, checkpoint, W&B, TensorBoard
    resumed = {"enabled": True, "checkpoint": "auto", "reset_optimizer": False, "reset_scheduler": False}
    again = tiny_run(run, CHANGES | {"training.epochs": 3, "training.resume": resumed})
    assert again.epochs == 3  # the settings count as the same


def test_exports_and_uploads_contain_no_paths(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert checkpoint_command(["export", str(run)]) == 0
    export = run / "model.safetensors"
    (sent,) = run.rglob("run-*.wandb")
    (report,) = run.rglob("report.html")
    records = sent.read_bytes().replace(str(report).encode(), b"")  # `wandb sync` reads the file there
    for name, content in (("export", export.read_bytes()), ("W&B", records)):
        for private in (SECRET, str(run.parent), str(Path.home()), sys.executable, "SOME_API_KEY"):
            assert private.encode() not in content, (name, private)
    _, about = read_export(export)
    assert about["config"]["data"]["type"] == CHANGES["data.type"]
    assert {"output", "logger"}.isdisjoint(about["config"])
    assert set(about["environment"]) == {"python", "packages", "git_commit"}
    assert "wandb_id" not in about


def test_the_hosts_name_is_not_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "annas-secret-laptop")
    tiny_run(tmp_path / "run", {"logger": {"backends": ["wandb"]}})
    (sent,) = tmp_path.rglob("run-*.wandb")
    assert b"annas-secret-laptop" not in sent.read_bytes()


def test_older_checkpoints_are_exported_without_secrets_too() -> None:
    config = {"model": {}, "data": {"token": SECRET}}
    about = {"config": config, "environment": {"command": [f"api_key={SECRET}"], "python": "3"}}
    assert SECRET not in json.dumps(public_metadata(about))


def test_failure_of_a_run_reveals_no_secret(tmp_path: Path) -> None:
    with pytest.raises(ConnectionError):
        tiny_run(tmp_path / "run", CHANGES | {"data.broken": True, "logger": {"backends": []}})
    assert files_holding(SECRET, tmp_path) == []
    assert REDACTED in (tmp_path / "run" / "status.json").read_text()
    assert REDACTED in (tmp_path / "run" / "logs" / "run.log").read_text()


def test_no_file_of_a_sweep_holds_a_secret(tmp_path: Path) -> None:
    """This includes Hydra's own record of the command."""
    overrides = ("-m", *SMALL, "training.epochs=1", "compute.seed=0,1", f"+hydra.job.env_set.SOME_TOKEN={SECRET}")
    succeeds(tmp_path, "train.py", *overrides, "hydra.sweep.dir=sweep")
    assert (tmp_path / "sweep" / "multirun.yaml").is_file()
    assert REDACTED in (tmp_path / "sweep" / "multirun.yaml").read_text()
    assert files_holding(SECRET, tmp_path / "sweep") == []
