"""W&B as a mirror: what it receives, and that no failure of it ends or blocks a run."""

from __future__ import annotations

import io
import json
import os
import shlex
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb
from rich.console import Console

from diffusion_lab.config.schema import LoggerSettings
from diffusion_lab.runs.folder import RunStopped
from diffusion_lab.tracking import wandb_run, wandb_server
from diffusion_lab.tracking.wandb_run import end_service
from diffusion_lab.tracking.wandb_server import check_reachable
from diffusion_lab.training.anomalies import NonFiniteError
from diffusion_lab.training.loggers import Continuation, JsonlLogger, open_loggers, wandb_id
from diffusion_lab.training.signals import StopRequest, handle_signals
from diffusion_lab.training.wandb_mirror import WandbMirror
from tests.training.fake_wandb import FakeWandb, logged_in
from tests.training.tiny import TinySource, tiny_run

ONLINE = {"backends": ["wandb"], "mode": "online"}


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=500)


def text_of(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.fixture
def plain_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Remove all W&B settings and logins but those of the test."""
    for name in list(os.environ):
        if name.startswith("WANDB_") and not name.endswith(("_CACHE_DIR", "_CONFIG_DIR", "_DATA_DIR", "_REPORTING")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "no_netrc"))


@pytest.fixture
def server(plain_environment: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeWandb]:
    """Local W&B server that knows our key."""
    with logged_in(monkeypatch) as answering:
        yield answering


class TestBeforeTheRun:
    """If W&B cannot be reached, one error is raised and nothing is written."""

    def refused(self, folder: Path) -> str:
        with pytest.raises(ValueError, match=r"logger\.mode=online") as caught:
            tiny_run(folder, {"logger": ONLINE})
        assert not folder.exists()
        assert "\n" not in str(caught.value)
        assert "logger.mode=offline" in str(caught.value)
        return str(caught.value)

    def test_no_login(self, server: FakeWandb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("WANDB_API_KEY")
        assert f"needs a login for {server.url}" in self.refused(tmp_path / "run")

    def test_unknown_key(self, server: FakeWandb, tmp_path: Path) -> None:
        server.known_account = False
        assert "does not know the W&B key" in self.refused(tmp_path / "run")

    def test_silent_server(self, server: FakeWandb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(wandb_server, "REACH_SECONDS", 0.3)  # in which the other tests' servers need not answer
        server.silent.set()
        assert "cannot be reached (timed out)" in self.refused(tmp_path / "run")

    def test_no_server(self, server: FakeWandb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))  # not listening
            monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{unused.getsockname()[1]}")
            assert "cannot be reached (Connection refused)" in self.refused(tmp_path / "run")

    def test_another_server(self, server: FakeWandb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(FakeWandb, "answer", lambda self, body: {"hello": "world"})
        assert "cannot be reached" in self.refused(tmp_path / "run")

    @pytest.mark.parametrize("other", [{"mode": "offline"}, {"mode": "disabled"}, {"backends": ()}])
    def test_no_request_if_nothing_is_sent(self, other: dict[str, Any], server: FakeWandb) -> None:
        check_reachable(LoggerSettings(**(ONLINE | other)))
        assert server.requests == []


def test_metrics_and_settings_arrive(server: FakeWandb, tmp_path: Path) -> None:
    tiny_run(tmp_path / "run", {"logger": ONLINE})
    lines = [json.loads(line) for line in (tmp_path / "run" / "logs" / "metrics.jsonl").read_text().splitlines()]
    sent = [(line["trainer/global_step"], line["train/loss"]) for line in server.history if "train/loss" in line]
    assert sent == [(line["step"], line["train/loss"]) for line in lines if "train/loss" in line]
    private = (str(tmp_path), socket.gethostname() + '"')
    assert not [
        request for request in server.requests for place in private if place in request and "/otel/" not in request
    ]
    id_file = (tmp_path / "run" / "logs" / "wandb_id").read_text().split()
    assert id_file[1:] == ["5"]  # everything that was logged has arrived
    assert [artifact["artifactTypeName"] for artifact in server.artifacts] == ["report"]
    assert [request for request in server.requests if "/upload/artifact/report.html" in request[:80]]


def test_a_resumed_run_sends_what_the_server_lacks(server: FakeWandb, tmp_path: Path) -> None:
    """The server reports what it has: only the first of three steps, as after a kill."""
    resume = {"enabled": True, "checkpoint": "auto", "reset_optimizer": False, "reset_scheduler": False}
    changes = {"logger": ONLINE, "training.resume": resume, "training.checkpointing.save_frequency": 1}
    tiny_run(tmp_path / "run", changes | {"training.epochs": 1})
    del server.history[1:]
    id_file = tmp_path / "run" / "logs" / "wandb_id"
    id_file.write_text(id_file.read_text().split()[0])  # as if the end of the run was not reached
    tiny_run(tmp_path / "run", changes | {"training.epochs": 2})
    steps = [line["trainer/global_step"] for line in server.history if "train/loss" in line]
    assert sorted(set(steps)) == list(range(6))
    assert len(steps) <= 7  # the step that the server has last may come twice


@pytest.mark.usefixtures("plain_environment")
def test_ended_service_leaves_no_process_behind() -> None:
    service = wandb.setup()
    service.ensure_service()
    process = service._connection._proc._process
    end_service()
    assert process.returncode == -signal.SIGKILL  # known to those alone who have waited for it


def test_checkpoints_are_uploaded_if_that_is_asked_for(server: FakeWandb, tmp_path: Path) -> None:
    tiny_run(tmp_path / "run", {"logger": {**ONLINE, "log_checkpoints": True}})
    (model,) = [artifact for artifact in server.artifacts if artifact["artifactTypeName"] == "model"]
    assert {"best", "last"} <= {alias["alias"] for alias in model["aliases"]}  # one file is both
    assert [request for request in server.requests if "/upload/artifact/step_00000006.ckpt" in request[:80]]


def test_alert_on_nan(server: FakeWandb, tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError):
        tiny_run(tmp_path / "run", {"logger": ONLINE, "training.optimizer.learning_rate": 1e30})
    (alert,) = [request for request in server.requests if "NaN or infinite loss" in request and "Alert" in request]
    assert "run: the loss or gradient of step" in alert
    assert [artifact["artifactTypeName"] for artifact in server.artifacts] == ["report"]  # shows what happened


class KillsItsService(TinySource):
    """W&B's service process dies while the first images are read."""

    def load_batch(self, *arguments: Any) -> Any:
        connection = wandb.setup()._connection
        if connection is not None and connection._proc is not None:
            connection._proc._process.kill()
            connection._proc._process.wait()
        return super().load_batch(*arguments)


@pytest.mark.usefixtures("plain_environment")
def test_killed_service_does_not_end_the_run(tmp_path: Path, console: Console) -> None:
    changes = {"logger": {"backends": ["wandb"]}, "data.type": "tests.training.test_wandb_mirror.KillsItsService"}
    pictures = {"enabled": True, "interval": 1, "num_samples": 3, "guidance_scale": 1.0}
    assert tiny_run(tmp_path / "run", changes | {"training.visualization": pictures}, console).steps == 6
    assert text_of(console).count("Warning: W&B can no longer be written to") == 1
    assert "training continues without it" in (tmp_path / "run" / "logs" / "run.log").read_text()
    tiny_run(tmp_path / "next", {"logger": {"backends": ["wandb"]}}, console)  # it starts its own service
    assert list((tmp_path / "next" / "logs" / "wandb").glob("offline-run-*/run-*.wandb"))
    assert text_of(console).count("Warning: W&B") == 1


def services() -> set[int]:
    """Return the ids of running W&B processes that were started by this one."""
    running = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:  # it ended meanwhile
            continue
        if any(b"wandb" in word for word in words[:1]) and str(os.getpid()).encode() in words:
            running.add(int(folder.name))
    return running


@pytest.mark.skipif(not Path("/proc/self/cmdline").is_file(), reason="processes are found by /proc")
@pytest.mark.usefixtures("plain_environment")
def test_ending_the_service_ends_its_process(tmp_path: Path) -> None:
    """W&B has no public API for it, so this test fails for a version that keeps the process elsewhere."""
    before = services()
    wandb.init(mode="offline", dir=tmp_path, reinit="finish_previous", settings=wandb.Settings(silent=True))
    assert (service := services() - before) or before, "W&B's process has another name now"
    end_service()
    assert not services() & (service or before)


class LosesItsServer(TinySource):
    """The server stops answering while the first images are read."""

    server: FakeWandb

    def load_batch(self, *arguments: Any) -> Any:
        self.server.silent.set()
        return super().load_batch(*arguments)


def test_unreachable_server_delays_the_end_only_by_the_limit(
    server: FakeWandb, tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_FINISH_TIMEOUT", "1")
    monkeypatch.setattr(LosesItsServer, "server", server, raising=False)
    changes = {"logger": ONLINE, "data.type": "tests.training.test_wandb_mirror.LosesItsServer"}
    assert tiny_run(tmp_path / "my run (1)", changes, console).steps == 6
    assert json.loads((tmp_path / "my run (1)" / "status.json").read_text())["state"] == "finished"
    (kept,) = (tmp_path / "my run (1)" / "logs" / "wandb").glob("run-*-*")
    assert text_of(console).count("Warning: ") == 1
    assert shlex.join(["wandb", "sync", str(kept)]) in text_of(console)
    assert (tmp_path / "my run (1)" / "logs" / "wandb_id").read_text().split()[
        1:
    ] == []  # it is unknown what has arrived


class Run:
    """Fake of the run on W&B.

    Args:
        endless: Its end takes until it is let go.
    """

    id = "abc"

    def __init__(self, endless: bool = False) -> None:
        self.logged: list[tuple[int, set[str]]] = []
        self.let_go = threading.Event()
        self.settings = type("Settings", (), {"sync_dir": "logs/wandb/run-1"})()
        if not endless:
            self.let_go.set()

    def define_metric(self, name: str, step_metric: str) -> None:
        """Accept every axis."""

    def log(self, metrics: dict[str, Any]) -> None:
        self.logged.append((metrics["trainer/global_step"], set(metrics) - {"trainer/global_step"}))

    def finish(self, exit_code: int) -> None:
        self.let_go.wait()


@pytest.fixture
def no_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wandb_run, "end_service", lambda: None)


@pytest.mark.usefixtures("no_service")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_ends_the_wait_for_the_upload(number: signal.Signals, console: Console) -> None:
    run = Run(endless=True)
    mirror = WandbMirror(run, console)
    with handle_signals() as stop:
        with stop.deferred() as came:
            os.kill(os.getpid(), number)
            assert not mirror.finish(failed=False, seconds=1000, interrupted=came)
        assert stop.received == number  # the exit code is that of the signal, and the status has the end of the run
        run.let_go.set()
    assert "the upload to W&B is incomplete (interrupted by a signal)" in text_of(console)


@pytest.mark.usefixtures("no_service")
def test_failure_at_the_end_is_reported_once(console: Console) -> None:
    run = Run()
    run.finish = lambda exit_code: 1 / 0  # type: ignore[method-assign, assignment, return-value]
    assert not WandbMirror(run, console).finish(failed=False, seconds=1000, interrupted=lambda: False)
    assert text_of(console).count("the upload to W&B is incomplete (division by zero)") == 1


def lines_of_a_killed_run(folder: Path) -> None:
    """Write the lines of steps 0 to 9, ten seconds each."""
    folder.mkdir(exist_ok=True)
    lines = [{"step": step, "seconds": 10.0 * step, "train/loss": 1.0} for step in range(10)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def resumed(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    at: int,
    mode: str = "offline",
    server_has: int | None = None,
    same: bool = True,
) -> list[int]:
    """Return the steps that W&B receives when the run is resumed and does the steps up to 10."""
    run = Run()
    monkeypatch.setattr("diffusion_lab.training.loggers.start_run", lambda *_: run)
    monkeypatch.setattr("diffusion_lab.training.loggers.last_step_of", lambda _: server_has)
    settings = LoggerSettings(backends=("wandb",), mode=mode)
    with open_loggers(settings, folder, "tiny", "job", {}, Continuation(at, "abc", same)) as loggers:
        for step in range(at, 11):
            for logger in loggers:
                logger.log_metrics({"train/loss": 1.0}, step)
    return [step for step, _ in run.logged]


def test_metrics_that_a_kill_withheld_from_wandb_are_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Metrics of the last 30 seconds, which may be missing; also of steps before the checkpoint."""
    lines_of_a_killed_run(tmp_path)
    assert resumed(tmp_path, monkeypatch, at=8) == [7, 8, 9, 10]


def test_after_a_proper_end_nothing_is_sent_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines_of_a_killed_run(tmp_path)
    (tmp_path / "wandb_id").write_text("abc\n9\n")
    assert resumed(tmp_path, monkeypatch, at=8) == [10]
    assert (tmp_path / "wandb_id").read_text() == "abc\n10\n"


def test_the_server_knows_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line of its last step may be missing."""
    lines_of_a_killed_run(tmp_path)
    assert resumed(tmp_path, monkeypatch, at=8, mode="online", server_has=4) == [4, 5, 6, 7, 8, 9, 10]
    lines_of_a_killed_run(tmp_path)
    (tmp_path / "wandb_id").unlink()
    assert resumed(tmp_path, monkeypatch, at=8, mode="online") == list(range(11))  # it has lost the run


def test_other_results_are_all_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines_of_a_killed_run(tmp_path)
    (tmp_path / "wandb_id").write_text("abc\n9\n")
    assert resumed(tmp_path, monkeypatch, at=8, same=False) == [8, 9, 10]


@pytest.mark.parametrize("content", [b"", b"\n", b"../../x\n", b"\xff\xfe", b"x" * 500, b"abc\nmany\n", b"abc\n-4"])
def test_invalid_id_files(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An id that W&B would refuse is replaced by the checkpoint's, else by a new one."""
    (tmp_path / "wandb_id").write_bytes(content)
    assert id_of_resumed(tmp_path, monkeypatch, "fromcheckpoint") == (
        "abc" if content.startswith(b"abc") else "fromcheckpoint"
    )


@pytest.mark.parametrize("stored_id", ["", "../x", "a b", "x" * 100])
def test_invalid_id_in_a_checkpoint(stored_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = id_of_resumed(tmp_path, monkeypatch, stored_id)
    assert len(made) == 8
    assert made.isalnum()


def id_of_resumed(folder: Path, monkeypatch: pytest.MonkeyPatch, stored_id: str) -> str:
    """Return the id under which a run is resumed whose checkpoint contains ``stored_id``."""
    ids: list[str] = []
    monkeypatch.setattr("diffusion_lab.training.loggers.start_run", lambda *args: ids.append(args[2]) or Run())
    settings = LoggerSettings(backends=("wandb",), mode="offline")
    with open_loggers(settings, folder, "tiny", "job", {}, Continuation(0, stored_id)) as loggers:
        assert wandb_id(loggers) == "abc"
    return ids[0]


STRANGE_LINES = [
    b"null",
    b'"text"',
    b"[" * 100_000,
    b'{"step": ' + b"[" * 100_000,
    b"\xff\xfe\x00",
    b'{"step": null, "seconds": 1.0}',
    b'{"step": "3", "seconds": 1.0}',
    b'{"step": 3, "seconds": "1"}',
    b'{"step": 3, "seconds": NaN}',
    b'{"step": -1, "seconds": 1}',
    b'{"step": true, "seconds": 1}',
]


@pytest.mark.parametrize("line", STRANGE_LINES, ids=lambda line: str(line[:20]))
def test_invalid_lines_of_metrics_are_skipped(line: bytes, tmp_path: Path) -> None:
    sound = b'{"step": 0, "seconds": 1.0, "train/loss": 1.0}'
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join([sound, line, sound.replace(b"0,", b"1,"), b""]))
    logger = JsonlLogger(tmp_path, resumed_at=5)
    assert [line["step"] for line in logger.earlier_lines] == [0, 1]
    logger.log_metrics({"train/loss": 1.0}, 5)
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3


def test_a_stopped_run_waits_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[float] = []
    monkeypatch.setattr("diffusion_lab.training.loggers.start_run", lambda *_: Run())
    monkeypatch.setattr(WandbMirror, "finish", lambda self, failed, seconds, came: limits.append(seconds) or True)
    for received in (None, signal.SIGTERM):
        stop = StopRequest()
        stop.received = received
        with (
            pytest.raises(RunStopped) if received else pytest.MonkeyPatch.context(),  # type: ignore[attr-defined]
            open_loggers(LoggerSettings(backends=("wandb",)), tmp_path, "tiny", "job", {}, stop=stop),
        ):
            if received:
                raise stop.stopped(3)
    assert limits == [60.0, 10.0]
