"""Callbacks, loggers and a profiler of any class, with arguments: those of Lightning, and custom ones."""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping
from lightning.pytorch.loggers import Logger
from rich.console import Console
from torchmetrics import MeanMetric

from diffusion_lab.checkpoint import find_checkpoint
from diffusion_lab.config import ConfigError
from diffusion_lab.console.redaction import REDACTED
from diffusion_lab.training.callbacks.order import ORDER, in_order
from diffusion_lab.training.callbacks.sample_metric import SampleMetric
from diffusion_lab.training.custom_objects import changed_arguments, create_object
from tests.sameness import assert_same_state
from tests.training.tiny import saved, tiny_config, tiny_run

LIGHTNING = "lightning.pytorch.callbacks"
HERE = __name__


def callbacks(*entries: object) -> dict[str, Any]:
    return {"training.callbacks": list(entries)}


def target(path: str, **arguments: object) -> dict[str, Any]:
    return {"_target_": path, **arguments}


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "logs/metrics.jsonl").read_text().splitlines()]


def refusal(changes: dict[str, Any]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        tiny_config(Path("unused"), changes)
    return [str(fault) for fault in caught.value.faults]


class Recorder(Callback):
    """Records its arguments, and the hooks that depend on the order of callbacks."""

    made: list[Recorder]

    def __init__(self, name: str, inner: object = None) -> None:
        self.name, self.inner = name, inner
        self.orders: list[list[type[Callback]]] = []
        Recorder.made = [*getattr(Recorder, "made", []), self]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.orders.append([type(each) for each in trainer.callbacks])  # type: ignore[attr-defined]


class Pair:
    def __init__(self, one: int, two: object = None) -> None:
        self.one, self.two = one, two


class TestArguments:
    def test_callbacks_get_their_arguments_and_arguments_may_be_objects(self, tmp_path: Path) -> None:
        Recorder.made = []
        inner = target(f"{HERE}.Pair", one=1, two=[target(f"{HERE}.Pair", one=2)])
        named = callbacks(target(f"{HERE}.Recorder", name="a", inner=inner), target(f"{HERE}.Recorder", name="b"))
        tiny_run(tmp_path, named | {"training.epochs": 1})
        first, second = Recorder.made
        assert (first.name, second.name) == ("a", "b")
        assert isinstance(first.inner, Pair)
        assert isinstance(first.inner.two, list)
        assert [first.inner.one, first.inner.two[0].one] == [1, 2]
        written = (tmp_path / "config.yaml").read_text()
        assert f"_target_: {HERE}.Recorder" in written

    def test_all_faults_are_reported_before_the_run(self) -> None:
        faults = refusal(
            callbacks(
                target(f"{LIGHTNING}.EarlyStopping", patiense=3),
                f"{HERE}.Recorder",
                target(f"{HERE}.Recorder", name="x", inner=target(f"{HERE}.Pair", three=3)),
                target(f"{LIGHTNING}.EarlyStoping", monitor="val/loss"),
            )
            | {"logger.backends": ["lightning.pytorch.Callback"]}
        )
        assert faults == [
            'logger.backends[0] = "lightning.pytorch.Callback": must be a class derived from '
            "lightning.pytorch.loggers.Logger",
            f"training.callbacks[0].monitor: required by {LIGHTNING}.EarlyStopping, but missing (such as "
            f"{{_target_: {LIGHTNING}.EarlyStopping, monitor: VALUE}})",
            f"training.callbacks[0].patiense = 3: {LIGHTNING}.EarlyStopping takes no such argument (did you mean "
            "'training.callbacks[0].patience'?)",
            f"training.callbacks[1].name: required by {HERE}.Recorder, but missing (such as {{_target_: "
            f"{HERE}.Recorder, name: VALUE}})",
            f"training.callbacks[2].inner.one: required by {HERE}.Pair, but missing (such as {{_target_: {HERE}.Pair, "
            "one: VALUE})",
            f"training.callbacks[2].inner.three = 3: {HERE}.Pair takes no such argument",
            f'training.callbacks[3] = "{LIGHTNING}.EarlyStoping": must be a class that can be imported (module '
            f"'{LIGHTNING}' has no EarlyStoping) (did you mean 'EarlyStopping'?)",
        ]

    @pytest.mark.parametrize(
        ("path", "rule"),
        [
            ("ModelCheckpoint", "must not be a Checkpoint: checkpoints are saved as training.checkpointing says"),
            ("RichProgressBar", "must not be a ProgressBar: the run shows its own progress"),
            ("GradientAccumulationScheduler", "use training.accumulate_batches"),
            ("LearningRateFinder", "use training.optimizer.learning_rate"),
        ],
    )
    def test_callbacks_that_the_run_replaces_are_refused(self, path: str, rule: str) -> None:
        entry = target(f"{LIGHTNING}.{path}", **({"scheduling": {}} if path.startswith("Gradient") else {}))
        (fault,) = refusal(callbacks(entry))
        assert rule in fault

    def test_an_argument_that_the_class_rejects_is_refused_before_anything_is_written(self, tmp_path: Path) -> None:
        stopping = target(f"{LIGHTNING}.EarlyStopping", monitor="val/loss", mode="lower")
        with pytest.raises(ValueError, match=r"training\.callbacks\[0\] cannot be created: .*`mode` can be"):
            tiny_run(tmp_path / "run", callbacks(stopping))
        assert not (tmp_path / "run").exists()

    def test_two_callbacks_with_one_state_are_refused(self, tmp_path: Path) -> None:
        stopping = target(f"{LIGHTNING}.EarlyStopping", monitor="val/loss")
        with pytest.raises(
            ValueError, match=r"callbacks\[1\] must have another state_key than training\.callbacks\[0\]"
        ):
            tiny_run(tmp_path / "run", callbacks(stopping, stopping | {"patience": 5}))
        assert not (tmp_path / "run").exists()

    def test_a_callback_that_runs_have_anyway_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"training\.callbacks\[0\] must not be a callback that runs have anyway"):
            tiny_run(tmp_path / "run", callbacks("diffusion_lab.training.callbacks.EMACallback"))

    def test_a_path_without_arguments_and_a_mapping_are_equal_settings(self, tmp_path: Path) -> None:
        plain = tiny_config(tmp_path, callbacks("lightning.pytorch.Callback"))
        assert plain == tiny_config(tmp_path, callbacks(target("lightning.pytorch.Callback")))

    def test_a_secret_that_was_left_out_is_asked_for(self) -> None:
        (fault,) = refusal(callbacks(target(f"{HERE}.Recorder", name="x", inner={"api_key": REDACTED})))
        assert fault.startswith("training.callbacks = ")
        assert "a secret that was left out when this was written: give its value" in fault


def test_arguments_that_changed() -> None:
    pair = f"{HERE}.Pair"
    then = [target(pair, one=1, two=2), target(pair, one=3), "my_lab.Gone"]
    now = [target(pair, one=1), target(pair, one=4, two=5), target(f"{HERE}.Recorder", name="x")]
    assert changed_arguments(then, now) == [{"two": None}, {"one": 4, "two": 5}, {}]


class TestCallbacksOfLightning:
    def test_learning_rate_and_device_are_logged(self, tmp_path: Path) -> None:
        pytest.importorskip("psutil")
        monitors = callbacks(
            target(f"{LIGHTNING}.LearningRateMonitor", logging_interval="step"), f"{LIGHTNING}.DeviceStatsMonitor"
        )
        schedule = {"training.scheduler": {"type": "warmup_cosine", "warmup_steps": 1, "eta_min": 0.0}}
        tiny_run(tmp_path, monitors | schedule | {"training.epochs": 2})
        logged = {name for line in metrics(tmp_path) for name in line}
        assert any(name.startswith("DeviceStatsMonitor.") for name in logged)
        rates = [line["lr-Adam"] for line in metrics(tmp_path) if "lr-Adam" in line]
        assert rates == [line["train/learning_rate"] for line in metrics(tmp_path) if "train/learning_rate" in line]

    @pytest.mark.parametrize(
        ("profiler", "found"),
        [
            ("simple", "[Callback]EMACallback.on_train_batch_end"),
            (target("lightning.pytorch.profilers.AdvancedProfiler", line_count_restriction=3), "function calls"),
        ],
    )
    def test_a_profiler_writes_to_the_logs(self, tmp_path: Path, profiler: object, found: str) -> None:
        tiny_run(tmp_path, {"training.profiler": profiler, "training.epochs": 1})
        assert found in (tmp_path / "logs" / "fit-profile.txt").read_text()

    def test_an_unsuitable_profiler_is_refused(self) -> None:
        assert refusal({"training.profiler": f"{LIGHTNING}.Timer"}) == [
            f'training.profiler = "{LIGHTNING}.Timer": must be a class derived from '
            "lightning.pytorch.profilers.Profiler"
        ]


class Failing(Logger):
    """Logs two lines, then fails."""

    made: Failing

    def __init__(self, suffix: str) -> None:
        super().__init__()
        self.lines: list[tuple[int, list[str]]] = []
        self.settings: Mapping[str, Any] = {}
        self.suffix = suffix
        Failing.made = self

    @property
    def name(self) -> str:
        return f"failing{self.suffix}"

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        self.settings = params

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if len(self.lines) == 2:
            raise OSError(28, "No space left on device")
        self.lines.append((step or 0, sorted(metrics)))


class TestLoggers:
    def test_a_logger_of_lightning_writes_to_the_logs(self, tmp_path: Path) -> None:
        tiny_run(tmp_path, {"logger.backends": ["lightning.pytorch.loggers.CSVLogger"], "training.epochs": 1})
        (file,) = (tmp_path / "logs").rglob("metrics.csv")
        rows = list(csv.DictReader(file.open()))
        expected = [line["val/loss"] for line in metrics(tmp_path) if "val/loss" in line]
        assert [float(row["val/loss"]) for row in rows if row["val/loss"]] == pytest.approx(expected)

    def test_a_failing_logger_does_not_end_the_run(self, tmp_path: Path) -> None:
        shown = io.StringIO()
        failing = {"logger.backends": [target(f"{HERE}.Failing", suffix="!")], "training.epochs": 1}
        tiny_run(tmp_path, failing, Console(file=shown, width=300))
        assert [step for step, _ in Failing.made.lines] == [0, 1]
        assert Failing.made.settings["training"]["epochs"] == 1
        assert Failing.made.name == "failing!"
        warning = "Failing can no longer be written to (No space left on device): training continues without it"
        assert shown.getvalue().count(warning) == 1
        assert sum("train/loss" in line for line in metrics(tmp_path)) == 3


class LogsTensors(Callback):
    """Logs tensors directly, which the project's own file must be able to hold."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for logger in trainer.loggers:
            logger.log_metrics({"tensor": torch.tensor(0.5)}, trainer.global_step - 1)  # type: ignore[dict-item]


def test_a_callback_may_log_tensors(tmp_path: Path) -> None:
    tiny_run(tmp_path, callbacks(f"{HERE}.LogsTensors") | {"training.epochs": 1})
    assert [line["tensor"] for line in metrics(tmp_path) if "tensor" in line] == [0.5]


class TestOrder:
    def test_the_order_is_declared_whatever_is_added(self, tmp_path: Path) -> None:
        Recorder.made = []
        custom = callbacks(
            target(f"{HERE}.Recorder", name="first"), target(f"{LIGHTNING}.EarlyStopping", monitor="val/loss")
        )
        everything = {
            "training.epochs": 1,
            "training.visualization": {"enabled": True, "interval": 9, "num_samples": 3, "guidance_scale": 1.0},
        }
        tiny_run(tmp_path, custom | everything)
        (order,) = Recorder.made[0].orders
        listed = [cls for cls in order if cls in ORDER]
        assert listed == [cls for cls in ORDER if cls in listed]
        assert order.index(EarlyStopping) == order.index(Recorder) + 1
        monitor = next(index for index, cls in enumerate(order) if cls.__name__ == "TrainingMonitor")
        assert order.index(EarlyStopping) < monitor, "it checks the gradients that they may have changed"

    def test_lightning_keeps_the_order(self) -> None:
        """It moves Checkpoint callbacks to the end, where the declared order has them."""
        last = [issubclass(cls, Checkpoint) for cls in ORDER]
        assert last == sorted(last)

    def test_any_order_of_creation_gives_the_same(self) -> None:
        made = [object.__new__(cls) for cls in ORDER]
        for seed in range(5):
            shuffled = random.Random(seed).sample(made, len(made))
            assert in_order(shuffled) == made


class TestOverfitting:
    RUN = {"training.overfit_batches": 1, "training.epochs": 2}  # noqa: RUF012

    def test_the_same_images_are_trained_on_in_each_epoch(self, tmp_path: Path) -> None:
        summary = tiny_run(tmp_path, self.RUN | callbacks(f"{HERE}.SeenImages"))
        assert (summary.train_images, summary.steps) == (6, 2)
        first, second = SeenImages.batches
        assert torch.equal(first, second)

    def test_the_images_are_spread_over_the_classes(self, tmp_path: Path) -> None:
        tiny_run(tmp_path, self.RUN | callbacks(f"{HERE}.SeenImages"))
        assert len({round(float(image.mean()), 1) for image in SeenImages.batches[0]}) >= 3

    def test_more_batches_than_there_are_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(
            ValueError, match=r"overfit_batches must be at most 3, the batches of the 18 training .*got 4"
        ):
            tiny_run(tmp_path / "run", {"training.overfit_batches": 4})
        assert not (tmp_path / "run").exists()


class SeenImages(Callback):
    batches: list[torch.Tensor]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        SeenImages.batches = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.batches.append(batch.images.clone())


class Counter(Callback):
    """Counts steps in its state."""

    def __init__(self, count: int = 0) -> None:
        self.count = count

    def on_train_batch_end(self, *_: Any) -> None:
        self.count += 1

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.count = state_dict["count"]


def test_the_state_of_a_custom_callback_is_restored_unless_its_arguments_changed(tmp_path: Path) -> None:
    def count() -> int:
        states = saved(find_checkpoint(tmp_path, "last"))["callbacks"]
        return int(next(state["count"] for name, state in states.items() if name.startswith("Counter")))

    resume: dict[str, Any] = {"enabled": True, "checkpoint": "auto", "reset_optimizer": False, "reset_scheduler": False}
    entry = target(f"{HERE}.Counter", count=100)
    tiny_run(tmp_path, callbacks(entry) | {"training.epochs": 1})
    tiny_run(tmp_path, callbacks(entry) | {"training.epochs": 2, "training.resume": resume})
    assert count() == 106
    tiny_run(tmp_path, callbacks(entry | {"count": 0}) | {"training.epochs": 3, "training.resume": resume})
    assert count() == 3


def test_nothing_is_created_because_a_checkpoint_names_it(tmp_path: Path) -> None:
    """A class that the settings no longer name is not imported."""
    resume: dict[str, Any] = {"enabled": True, "checkpoint": "auto", "reset_optimizer": False, "reset_scheduler": False}
    tiny_run(tmp_path, callbacks("lightning.pytorch.Callback") | {"training.epochs": 1})
    file = find_checkpoint(tmp_path, "last")
    content = saved(file)
    content["diffusion_lab"]["config"]["training"]["callbacks"] = [target("no_such_package.Callback", x=1)]
    torch.save(content, tmp_path / "changed.ckpt")
    changed = resume | {"checkpoint": str(tmp_path / "changed.ckpt")}
    summary = tiny_run(tmp_path / "other", {"training.epochs": 2, "training.resume": changed})
    assert summary.epochs == 2


def test_an_object_of_an_unknown_class_is_refused() -> None:
    with pytest.raises(ConfigError, match="must be a class that can be imported"):
        create_object("no_such_package.Thing", "training.callbacks[0]")


class Brightness:
    """Metric with the interface of torchmetrics: the difference of the mean of samples and real images."""

    def __init__(self) -> None:
        self.reset()

    def update(self, images: torch.Tensor, real: bool) -> None:
        assert 0 <= float(images.min()) <= float(images.max()) <= 1
        self.images[real].append(images.cpu())

    def compute(self) -> torch.Tensor:
        assert [sum(map(len, self.images[real])) for real in (True, False)] == [6, 7]
        return torch.cat(self.images[True]).mean() - torch.cat(self.images[False]).mean()

    def reset(self) -> None:
        self.images: dict[bool, list[torch.Tensor]] = {True: [], False: []}


class TestMetricsOfSamples:
    BRIGHTNESS = callbacks(
        target(
            "diffusion_lab.training.callbacks.SampleMetric",
            metric=target(f"{HERE}.Brightness"),
            name="brightness",
            num_samples=7,
            sampler={"type": "ddim", "steps": 2},
            batch_size=4,
        )
    )

    def test_a_metric_selects_the_best_checkpoint_and_changes_no_weight(self, tmp_path: Path) -> None:
        watched = {"training.validation.metric": "brightness", "training.validation.mode": "max"}
        summary = tiny_run(tmp_path / "with", self.BRIGHTNESS | watched)
        values = [line["brightness"] for line in metrics(tmp_path / "with") if "brightness" in line]
        assert len(values) == 2
        assert summary.best_value == pytest.approx(max(values))
        tiny_run(tmp_path / "without")
        assert_same_state(tmp_path / "with", tmp_path / "without")

    def test_a_metric_of_torchmetrics(self, tmp_path: Path) -> None:
        variation = target("torchmetrics.image.TotalVariation", reduction="mean")
        entry = target("diffusion_lab.training.callbacks.SampleMetric", metric=variation, name="variation")
        tiny_run(tmp_path, callbacks(entry) | {"training.epochs": 1})
        assert [0 < line["variation"] < 1e4 for line in metrics(tmp_path) if "variation" in line] == [True]

    def test_other_objects_are_refused(self, tmp_path: Path) -> None:
        entry = target("diffusion_lab.training.callbacks.SampleMetric", metric=3, name="three")
        with pytest.raises(ValueError, match="metric must have update, compute and reset, got int"):
            tiny_run(tmp_path / "run", callbacks(entry))


@pytest.mark.parametrize("name", ["num_samples", "batch_size", "seed"])
def test_a_number_of_a_sample_metric_out_of_range_is_named_with_its_value(name: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name} must be at least \d, got -1$"):
        SampleMetric(MeanMetric(), "mean", **{name: -1})


def test_a_sample_metric_needs_a_diffusion_module() -> None:
    with pytest.raises(TypeError, match="needs a DiffusionModule to sample from, got LightningModule"):
        SampleMetric(MeanMetric(), "mean").on_validation_epoch_end(Trainer(logger=False), LightningModule())
