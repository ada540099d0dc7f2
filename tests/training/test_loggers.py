from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import wandb
import yaml
from PIL import Image
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from diffusion_lab.checkpoint import find_checkpoint
from diffusion_lab.checkpoint.files import steps_in
from diffusion_lab.config.schema import LoggerSettings
from diffusion_lab.training.loggers import JsonlLogger, log_image, open_loggers
from diffusion_lab.training.tensorboard_mirror import TensorBoardMirror
from diffusion_lab.training.wandb_mirror import WandbMirror
from tests.training.tiny import saved, tiny_run

PICTURES = {"enabled": True, "interval": 2, "num_samples": 3, "guidance_scale": 1.0}


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


class TestJsonl:
    def test_each_line_is_flushed(self, tmp_path: Path) -> None:
        """So that a kill loses none: nothing stays in a buffer of the open logger."""
        logger = JsonlLogger(tmp_path)
        for step in range(3):
            logger.log_metrics({"train/loss": 0.5 * step}, step)
            assert [line["step"] for line in lines(tmp_path)] == list(range(step + 1))
        assert [line["train/loss"] for line in lines(tmp_path)] == [0.0, 0.5, 1.0]

    @pytest.fixture
    def earlier(self, tmp_path: Path) -> Path:
        logger = JsonlLogger(tmp_path)
        for step in range(6):
            logger.log_metrics({"loss": 1.0}, step)
        return tmp_path

    def test_resuming_drops_repeated_steps(self, earlier: Path) -> None:
        logger = JsonlLogger(earlier, resumed_at=4)
        assert [line["step"] for line in lines(earlier)] == [0, 1, 2, 3]
        logger.log_metrics({"loss": 2.0}, 4)
        assert [line["loss"] for line in lines(earlier)] == [1.0] * 4 + [2.0]

    def test_incomplete_line_of_a_killed_run_is_dropped(self, earlier: Path) -> None:
        with (earlier / "metrics.jsonl").open("a") as file:
            file.write('{"step": 2, "lo')
        JsonlLogger(earlier, resumed_at=6)
        assert [line["step"] for line in lines(earlier)] == [0, 1, 2, 3, 4, 5]

    def test_seconds_continue(self, earlier: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        file = earlier / "metrics.jsonl"
        file.write_text('{"step": 0, "seconds": 500.0}\n{"step": 1, "seconds": 900.0}\n')
        JsonlLogger(earlier, resumed_at=1).log_metrics({}, 1)
        assert 500 <= lines(earlier)[-1]["seconds"] < 600

    def test_new_run_starts_a_new_file(self, earlier: Path) -> None:
        JsonlLogger(earlier)
        assert lines(earlier) == []


@pytest.fixture
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove all W&B settings but the one under test: the run must be offline by default."""
    for name in list(os.environ):
        if name.startswith("WANDB_") and not name.endswith(("_CACHE_DIR", "_CONFIG_DIR", "_DATA_DIR")):
            monkeypatch.delenv(name)


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


def offline_runs(folder: Path) -> list[Path]:
    return sorted((folder / "logs" / "wandb").glob("offline-run-*"))


@pytest.mark.usefixtures("plain_environment")
def test_wandb_is_offline_by_default_with_one_run_per_job_and_no_global_state(tmp_path: Path) -> None:
    before = dict(os.environ)
    changes = {"logger": {"backends": ["wandb"]}, "training.visualization": PICTURES}
    ids = []
    for name in ("first", "second"):
        tiny_run(tmp_path / name, changes)
        assert wandb.run is None  # finished: nothing that comes later joins it
        (run,) = offline_runs(tmp_path / name)
        (log,) = run.glob("run-*.wandb")
        wait_for(lambda log=log: log.stat().st_size > 1000)  # W&B's own process writes it
        ids.append(log.stem)
        (picture,) = run.glob("files/media/images/samples_[0-9]*.png")
        with Image.open(picture) as sent, Image.open(tmp_path / name / "samples" / "epoch_0002.png") as written:
            assert sent.size == written.size
    assert ids[0] != ids[1]
    left = {name: value for name, value in os.environ.items() if before.get(name) != value}
    assert not [name for name in left if name in ("WANDB_MODE", "WANDB_RUN_ID", "WANDB_DIR")]


@pytest.mark.usefixtures("plain_environment")
def test_wandb_run_of_a_failed_job_is_finished_too(tmp_path: Path) -> None:
    settings = LoggerSettings(backends=("wandb",))

    def job() -> None:
        with open_loggers(settings, tmp_path, "tiny", "job", {}) as loggers:
            assert isinstance(loggers[1], WandbMirror)
            assert loggers[1].run.settings.mode == "offline"
            raise RuntimeError("out of luck")

    with pytest.raises(RuntimeError, match="out of luck"):
        job()
    assert wandb.run is None


RESUMED = {
    "training.resume": {"enabled": True, "checkpoint": "auto", "reset_optimizer": False, "reset_scheduler": False}
}


@pytest.mark.usefixtures("plain_environment")
def test_resumed_run_continues_the_same_wandb_run(tmp_path: Path) -> None:
    changes = {"logger": {"backends": ["wandb"]}, "training.visualization": PICTURES, **RESUMED}
    for epochs in (1, 2):
        tiny_run(tmp_path, {**changes, "training.epochs": epochs})
    # the file, as the folder's name gets a number more if both start within a second
    ids = {file.stem.removeprefix("run-") for run in offline_runs(tmp_path) for file in run.glob("run-*.wandb")}
    assert ids == {(tmp_path / "logs" / "wandb_id").read_text().split()[0]}
    assert saved(find_checkpoint(tmp_path, "last"))["diffusion_lab"]["wandb_id"] in ids


def test_segments_on_tensorboard_neither_overlap_nor_leave_a_gap(tmp_path: Path) -> None:
    """A run of three epochs is resumed after the second, so that the last is repeated."""
    changes = {
        "logger": {"backends": ["tensorboard"]},
        "training.visualization": {**PICTURES, "interval": 1},
        **RESUMED,
    }
    tiny_run(tmp_path, {**changes, "training.epochs": 2, "training.checkpointing.save_frequency": 1})
    early = steps_in(tmp_path / "checkpoints")[-1]
    tiny_run(tmp_path, {**changes, "training.resume": {**RESUMED["training.resume"], "checkpoint": str(early)}})
    events = EventAccumulator(
        str(tmp_path / "logs" / "tensorboard" / tmp_path.name), size_guidance={"scalars": 0, "images": 0}
    ).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == list(range(6))
    assert [event.step for event in events.Scalars("val/loss")] == [2, 5]
    assert [event.step for event in events.Images("samples")] == [2, 5]


def test_wandb_disabled_adds_no_logger(tmp_path: Path) -> None:
    settings = LoggerSettings(backends=("wandb",), mode="disabled")
    with open_loggers(settings, tmp_path, "tiny", "job", {}) as loggers:
        assert [type(logger) for logger in loggers] == [JsonlLogger]


def test_tensorboard_has_the_metrics_of_the_jsonl_file(tmp_path: Path) -> None:
    tiny_run(tmp_path, {"logger": {"backends": ["tensorboard"]}, "training.visualization": PICTURES})
    events = EventAccumulator(
        str(tmp_path / "logs" / "tensorboard" / tmp_path.name), size_guidance={"scalars": 0}
    ).Reload()
    own = [(line["step"], line["val/loss"]) for line in lines(tmp_path / "logs") if "val/loss" in line]
    shown = [(event.step, event.value) for event in events.Scalars("val/loss")]
    assert shown == [(step, pytest.approx(value)) for step, value in own]
    assert [event.step for event in events.Images("samples")] == [5]  # as the validation of its epoch


def test_image_for_a_logger_without_image_support_is_ignored(tmp_path: Path) -> None:
    log_image(JsonlLogger(tmp_path), "samples", Image.new("L", (8, 8)), 1)
    assert not list(tmp_path.iterdir())


def test_gray_and_transparent_images_reach_tensorboard(tmp_path: Path) -> None:
    mirror = TensorBoardMirror(tmp_path, "run", {}, (), Console(quiet=True))
    for step, mode in enumerate(("L", "RGBA")):
        log_image(mirror, "samples", Image.new(mode, (8, 8)), step)
    mirror.close()
    assert not mirror.broken
    assert len(EventAccumulator(str(tmp_path / "run")).Reload().Images("samples")) == 2


def test_tensorboard_shows_the_settings_and_the_runs_name(tmp_path: Path) -> None:
    changes = {"logger": {"backends": ["tensorboard"]}, "training.optimizer.learning_rate": 0.0125}
    tiny_run(tmp_path / "my_run", changes)
    folder = tmp_path / "my_run" / "logs" / "tensorboard" / "my_run"  # whose name TensorBoard shows
    settings = yaml.safe_load((folder / "hparams.yaml").read_text())
    assert settings == yaml.safe_load((tmp_path / "my_run" / "config.yaml").read_text())
    events = EventAccumulator(str(folder)).Reload()
    (text,) = events.Tensors("settings/text_summary")
    assert "learning_rate: 0.0125" in text.tensor_proto.string_val[0].decode()
    about = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    session = HParamsPluginData.FromString(about).session_start_info.hparams
    assert session["training.optimizer.learning_rate"].number_value == 0.0125
    experiment = events.summary_metadata["_hparams_/experiment"].plugin_data.content
    metrics = [metric.name.tag for metric in HParamsPluginData.FromString(experiment).experiment.metric_infos]
    assert metrics == ["val/loss", "train/loss"]
    assert all(events.Scalars(metric) for metric in metrics)  # the run logs them


def test_tensorboard_that_cannot_be_written_does_not_end_the_run(tmp_path: Path) -> None:
    (tmp_path / "run" / "logs").mkdir(parents=True)
    (tmp_path / "run" / "logs" / "tensorboard").write_text("in the way")
    console = Console(file=io.StringIO(), width=500)
    assert tiny_run(tmp_path / "run", {"logger": {"backends": ["tensorboard"]}}, console).steps == 6
    assert console.file.getvalue().count("Warning: TensorBoard can no longer be written to") == 1


class TestFullDisk:
    @pytest.fixture
    def logger(self, tmp_path: Path) -> JsonlLogger:
        """Logger that has written a line when the disk is full."""
        logger = JsonlLogger(tmp_path, console=Console(file=io.StringIO(), width=500))
        logger.log_metrics({"loss": 1.0}, 0)
        logger.path.rename(tmp_path / "aside")
        logger.path.symlink_to("/dev/full")
        for step in (1, 2):
            logger.log_metrics({"loss": 1.0}, step)
        return logger

    def test_lines_are_written_once_there_is_space(self, logger: JsonlLogger, tmp_path: Path) -> None:
        assert logger.console.file.getvalue().count("cannot be written (No space left on device)") == 1
        (tmp_path / "aside").rename(logger.path)
        logger.log_metrics({"loss": 1.0}, 3)
        assert [line["step"] for line in lines(tmp_path)] == [0, 1, 2, 3]
        logger.close()
        assert "lost" not in logger.console.file.getvalue()

    def test_lost_lines_are_counted(self, logger: JsonlLogger) -> None:
        logger.close()
        assert "2 lines of" in logger.console.file.getvalue()

    def test_incomplete_line_is_truncated(self, tmp_path: Path) -> None:
        logger = JsonlLogger(tmp_path)
        logger.log_metrics({"loss": 1.0}, 0)
        with logger.path.open("a") as file:
            file.write('{"step": 1, "sec')  # until the disk was full
        logger.log_metrics({"loss": 1.0}, 1)
        assert [line["step"] for line in lines(tmp_path)] == [0, 1]

    def test_incomplete_line_is_truncated_in_a_file_that_was_removed_before(self, tmp_path: Path) -> None:
        logger = JsonlLogger(tmp_path)
        for step in range(3):
            logger.log_metrics({"loss": 1.0}, step)
        logger.path.unlink()
        logger.log_metrics({"loss": 1.0}, 3)
        with logger.path.open("a") as file:
            file.write('{"step": 4, "sec')
        logger.log_metrics({"loss": 1.0}, 4)
        assert [line["step"] for line in lines(tmp_path)] == [3, 4]
