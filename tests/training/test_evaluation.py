"""Evaluation during training: samples are compared with real images, without any effect on training."""

from __future__ import annotations

import json
import math
import re
import warnings
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from diffusion_lab.checkpoint import find_checkpoint
from diffusion_lab.config import ConfigError
from diffusion_lab.create import create_ddpm
from diffusion_lab.data.source import ArraySource
from diffusion_lab.evaluation import null_rows
from diffusion_lab.evaluation.families import BETTER, FAMILIES, full_name
from diffusion_lab.faults import ConfigWarning
from diffusion_lab.metric_names import MIN_IMAGES, VALUES, direction_of, logged_name
from diffusion_lab.runs.folder import RunStopped
from diffusion_lab.samplers import UniPCSampler
from diffusion_lab.sampling import DiffusionSampler
from diffusion_lab.sampling.batches import BatchGenerator
from diffusion_lab.training import sample_evaluation
from diffusion_lab.training.sample_evaluation import SampleEvaluation
from tests.recorded_warnings import recorded_warnings
from tests.sameness import assert_equal
from tests.training import own_features
from tests.training.tiny import CLASSES, TinySource, resume_of, saved, tiny_config, tiny_run

COUNT = 21
OWN = "tests.training.own_features"
KID = "val/kid_brightness"
ON: dict[str, Any] = {
    "data.count": 60,
    "training.epochs": 5,
    "evaluation": {
        "enabled": True,
        "every": 2,
        "features": f"{OWN}.Brightness",
        "num_samples": COUNT,
        "sampler_steps": 2,
        "metrics": ["fd", "kid"],
    },
}


def evaluation(**changes: Any) -> dict[str, Any]:
    return ON | {"evaluation": ON["evaluation"] | changes}


def metric(name: str, **more: Any) -> dict[str, Any]:
    return {"training.validation.metric": name, **{f"training.validation.{key}": value for key, value in more.items()}}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def lines_of(folder: Path, name: str = KID) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "logs/metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if name in line]


def test_training_is_bitwise_equal_with_and_without_evaluation(tmp_path: Path) -> None:
    off = {key: value for key, value in ON.items() if key != "evaluation"} | {"training.epochs": 2}
    tiny_run(tmp_path / "off", off)
    tiny_run(
        tmp_path / "on",
        off
        | evaluation(every=1, metrics=["fd", "kid", "precision_recall", "label_agreement"])
        | {"training.epochs": 2},
    )
    without, beside = (saved(find_checkpoint(tmp_path / name, "last")) for name in ("off", "on"))
    assert lines_of(tmp_path / "on")
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "randomness", "loops", "callbacks"):
        assert_equal(without[part], beside[part])
    losses = [[line["val/loss"] for line in lines_of(tmp_path / name, "val/loss")] for name in ("off", "on")]
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    ("limit", "epochs", "step"),
    [
        (
            {
                "training.callbacks": [
                    {
                        "_target_": "lightning.pytorch.callbacks.EarlyStopping",
                        "monitor": "val/loss",
                        "stopping_threshold": 1e9,
                    }
                ]
            },
            1,
            7,
        ),
        ({"training.max_steps": 3}, 0, 2),
    ],
)
def test_a_run_that_ends_early_is_evaluated_at_its_end(
    tmp_path: Path, limit: dict[str, Any], epochs: int, step: int
) -> None:
    """By a callback at the end of the first epoch of eight steps, and in its middle."""
    summary = tiny_run(tmp_path, evaluation(every=2) | metric(KID) | limit)
    assert (summary.epochs, summary.steps) == (epochs, step + 1)
    (line,) = lines_of(tmp_path)
    assert (line["epoch"], line["step"]) == (0, step)
    assert (summary.best_value, summary.best_epoch) == (line[KID], 1)
    assert (tmp_path / "checkpoints/best.ckpt").resolve() == Path(str(summary.last_checkpoint)).resolve()


def test_metrics_are_logged_at_intervals_and_after_the_last_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = StringIO()
    monkeypatch.setattr(own_features.Brightness, "notes", ("Brightness is all that is seen.",))
    summary = tiny_run(tmp_path, ON, Console(file=shown, width=300))
    lines = lines_of(tmp_path)
    assert [line["epoch"] + 1 for line in lines] == [2, 4, 5]
    validated = [line["step"] for line in lines_of(tmp_path, "val/loss")]
    assert [line["step"] for line in lines] == [validated[1], validated[3], validated[4]]
    for line in lines:
        assert math.isfinite(line[KID])
        assert line["val/fd_brightness"] > 0
        assert line["val/evaluation_seconds"] > 0
    output = shown.getvalue()
    assert re.search(r"evaluation +after every 2 epochs and the last one:\n +21 samples .*45 training images", output)
    halves = r"\(of 21 against 23\)"  # of 45 training images: fewer than 21 are held out
    null = rf"real images in place of samples have val/fd_brightness \S+ {halves}, val/kid_brightness \S+ {halves}"
    assert re.search(null, output)
    line = r"evaluation after epoch \d: val/fd_brightness .*\(21 samples in \S+ s, \d+% of the time of this epoch\)"
    assert len(re.findall(line, output)) == 3
    assert re.search(r"evaluation took \d+ s, \d+% of the time", output)
    assert summary.evaluation is not None
    section = json.loads((tmp_path / "summary.json").read_text())["evaluation"]
    assert section == summary.evaluation
    at_the_start = json.loads((tmp_path / "environment.json").read_text())["run"]["evaluation"]
    assert section == at_the_start | {name: section[name] for name in ("every", "seconds", "share_of_time")}
    assert 0 < section["share_of_time"] <= 1
    assert section["notes"] == ["Brightness is all that is seen."]
    assert "Brightness is all that is seen." in output
    assert (section["num_samples"], section["real_images"], section["split"], section["every"]) == (
        COUNT,
        45,
        "train",
        2,
    )
    assert section["null"].keys() == {KID, "val/fd_brightness"}
    expected = {"n": COUNT, "reference_n": 23, "source": null_rows.HALVES}
    assert {name: value for name, value in section["null"][KID].items() if name != "value"} == expected
    assert "evaluation after epoch 2" in (tmp_path / "logs/run.log").read_text()


def test_null_values_with_the_same_numbers_of_images_have_no_remark(tmp_path: Path) -> None:
    shown = StringIO()
    held_out = {"data.count": 100, "training.epochs": 1}  # 25 of which are held out, and 75 compared with
    tiny_run(tmp_path, evaluation(metrics=["kid", "label_agreement"]) | held_out, Console(file=shown, width=300))
    line = r"real images in place of samples have val/kid_brightness -?[\d.]+, val/label_agreement_brightness [\d.]+\n"
    assert re.search(line, shown.getvalue())


def test_the_cost_includes_the_preparation(tmp_path: Path) -> None:
    summary = tiny_run(tmp_path, evaluation(features=f"{OWN}.Slow") | {"training.epochs": 1})
    assert summary.evaluation is not None
    assert summary.evaluation["seconds"] > 0.8  # made once, and one block of real images
    assert 0.05 < summary.evaluation["share_of_time"] <= 1


def test_auto_gives_at_most_ten_evaluations(tmp_path: Path) -> None:
    settings = tiny_config(tmp_path, evaluation(every="auto")).evaluation
    assert [settings.interval(epochs) for epochs in (1, 4, 10, 11, 19, 29, 40, 200)] == [1, 1, 1, 2, 2, 3, 4, 20]
    for epochs in range(1, 300):
        assert -(-epochs // settings.interval(epochs)) <= 10  # the last epoch always has one


def test_the_same_weights_have_the_same_values(tmp_path: Path) -> None:
    """Noise and labels are the same each time, so weights that hardly change give nearly the same samples."""
    still = {"training.optimizer.learning_rate": 1e-12, "training.ema.enabled": False, "training.epochs": 2}
    tiny_run(tmp_path, evaluation(every=1) | still)
    first, second = (line["val/fd_brightness"] for line in lines_of(tmp_path))
    assert second == pytest.approx(first, rel=1e-3)


@pytest.mark.parametrize("name", [KID, "val/recall_brightness"])
def test_the_best_checkpoint_is_selected_by_an_evaluation_metric(tmp_path: Path, name: str) -> None:
    shown = StringIO()
    changes = evaluation(every=2, metrics=["kid", "precision_recall"]) | metric(name)
    summary = tiny_run(tmp_path, changes, Console(file=shown, width=300))
    values = {line["epoch"] + 1: line[name] for line in lines_of(tmp_path, name)}
    best = min(values.values()) if name == KID else max(values.values())
    assert (summary.metric, summary.mode) == (name, "min" if name == KID else "max")
    assert summary.best_value == best == values[summary.best_epoch or 0]
    assert saved(tmp_path / "checkpoints/best.ckpt")["diffusion_lab"]["epochs_done"] == summary.best_epoch
    epochs = [line for line in shown.getvalue().splitlines() if line.startswith("epoch ")]
    shown_name = name.removeprefix("val/")
    assert [shown_name in line for line in epochs] == [False, True, True, True, True]  # the last known value


def test_evaluation_needs_no_validation(tmp_path: Path) -> None:
    off = {"training.validation.enabled": False, "training.checkpointing.save_best_only": True}
    off |= {"training.epochs": 2}
    summary = tiny_run(tmp_path, evaluation(every=1) | metric(KID) | off)
    assert summary.best_value == min(line[KID] for line in lines_of(tmp_path))


def test_plateau_steps_only_after_evaluations(tmp_path: Path) -> None:
    """No evaluation after the first counts as progress, because the threshold is too large."""
    plateau = {"type": "plateau", "patience": 0, "factor": 0.5, "threshold": 1e9, "threshold_mode": "abs"}
    changes = {"training.scheduler": plateau, "training.optimizer.learning_rate": 0.008, "training.log_interval": 8}
    tiny_run(tmp_path, evaluation(every=2) | metric(KID) | changes | {"training.epochs": 7})
    rates = [line["train/learning_rate"] for line in lines_of(tmp_path, "train/learning_rate")]
    assert rates == pytest.approx([0.008, 0.008, 0.008, 0.008, 0.004, 0.004, 0.002])


def test_an_interrupted_evaluation_is_repeated_on_resuming(tmp_path: Path) -> None:
    changes = ON | metric(KID)
    whole = tiny_run(tmp_path / "whole", changes)
    own_features.StopsTheRun.calls = 0
    stopping = evaluation(features=f"{OWN}.StopsTheRun") | metric(KID)
    with pytest.raises(RunStopped):
        tiny_run(tmp_path / "stopped", stopping)
    assert [line["epoch"] + 1 for line in lines_of(tmp_path / "stopped")] == [2]
    auto = {"enabled": True, "checkpoint": "auto", "reset_optimizer": False, "reset_scheduler": False}
    with pytest.raises(RunStopped):  # while that evaluation is made, before the next step
        tiny_run(tmp_path / "stopped", stopping | {"training.resume": auto})
    resumed = tiny_run(tmp_path / "stopped", stopping | {"training.resume": auto})
    one, other = ([(line["epoch"], line[KID]) for line in lines_of(tmp_path / name)] for name in ("whole", "stopped"))
    assert one == other
    assert (resumed.best_value, resumed.best_epoch) == (whole.best_value, whole.best_epoch)
    weights = [saved(find_checkpoint(tmp_path / name, "last"))["state_dict"] for name in ("whole", "stopped")]
    assert_equal(*weights)


def test_changed_evaluation_settings_reset_the_best_if_the_metric_is_watched(tmp_path: Path) -> None:
    tiny_run(tmp_path / "run", ON | metric(KID) | {"training.epochs": 1})
    found = find_checkpoint(tmp_path / "run", "last")
    for watched, forgets in ((KID, True), ("loss", False)):
        shown = StringIO()
        changes = evaluation(num_samples=22) | metric(watched) | {"training.epochs": 2} | resume_of(found)
        tiny_run(tmp_path / watched.replace("/", "_"), changes, Console(file=shown, width=300))
        assert ("evaluation.num_samples was 21 in the checkpoint and is 22" in shown.getvalue()) == forgets


def test_warnings_about_memory_name_the_batch_size_of_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = BatchGenerator.__call__

    def small_alone(self: Any, part: slice, advance: Any) -> Any:
        if part.stop - part.start > 8:
            raise MemoryError
        return draw(self, part, advance)

    monkeypatch.setattr(BatchGenerator, "__call__", small_alone)
    shown = {"enabled": True, "interval": 1, "num_samples": 9, "guidance_scale": 1.0}
    with recorded_warnings() as caught:
        tiny_run(tmp_path, ON | {"training.epochs": 1, "training.visualization": shown})
    named = [
        text.partition(" = 64 does not fit into memory")[0] for each in caught if "fit" in (text := str(each.message))
    ]
    assert sorted(named) == ["the batch size of evaluation", "the batch size of training.visualization"]
    assert lines_of(tmp_path)


@pytest.mark.parametrize("trouble", ["not finite", "own class"])
def test_an_evaluation_that_fails_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: str) -> None:
    features = "Brightness"
    if trouble == "not finite":
        monkeypatch.setattr(UniPCSampler, "correct", lambda self, noisy, *_: noisy * math.nan)
    else:
        features = "Fails"
    changes = evaluation(features=f"{OWN}.{features}") | metric(KID) | {"training.epochs": 3}
    with pytest.warns(ConfigWarning, match=r"epoch 2 has no evaluation: (sampling gave NaN|no features today)"):
        summary = tiny_run(tmp_path, changes)
    assert summary.epochs == 3
    assert summary.best_value is None
    assert not lines_of(tmp_path)


def test_labels_have_the_frequencies_of_the_data(tmp_path: Path) -> None:
    labels = [0] * 30 + [1] * 60 + [2] * 10
    source = ArraySource(torch.zeros(100, 1, 8, 8, dtype=torch.uint8).numpy(), labels, CLASSES)
    settings = tiny_config(tmp_path, evaluation(num_samples=50)).evaluation
    asked = SampleEvaluation(settings, source, None, is_conditional=True, seed=0).labels
    assert asked is not None
    assert [asked.count(label) for label in range(3)] == [15, 30, 5]
    assert SampleEvaluation(settings, source, None, is_conditional=False, seed=0).labels is None


def test_a_metric_that_does_not_apply_gives_one_warning(tmp_path: Path) -> None:
    """Eight classes of three images each: too few to hold any out from a classifier."""
    labels = [index % 8 for index in range(24)]
    source = ArraySource(np.random.default_rng(0).integers(0, 255, (24, 1, 8, 8), dtype=np.uint8), labels, "abcdefgh")
    settings = tiny_config(tmp_path, evaluation(metrics=["kid", "label_agreement"])).evaluation
    measured = SampleEvaluation(settings, source, None, is_conditional=True, seed=0)
    model = create_ddpm(8, 1, 8, [1], num_classes=8, num_timesteps=20, use_attention=[False])
    measured.prepare()
    with pytest.warns(ConfigWarning, match="evaluation skips label_agreement: no class has at least 5 real images"):
        assert measured.values(DiffusionSampler(model)).keys() == {KID}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        measured.values(DiffusionSampler(model))


def test_images_with_an_alpha_channel_are_compared_over_white(tmp_path: Path) -> None:
    tiny_run(tmp_path, ON | {"model.architecture.in_channels": 4, "training.epochs": 1})
    assert math.isfinite(lines_of(tmp_path)[0][KID])


def test_names_and_directions_match_the_measurement() -> None:
    assert VALUES.keys() == FAMILIES.keys()
    assert {value for values in VALUES.values() for value in values} == BETTER.keys()
    assert MIN_IMAGES == null_rows.MIN_IMAGES
    for value, better in BETTER.items():
        assert direction_of(logged_name(value, "digits")) == {"lower": "min", "higher": "max"}[better]
        for features in ("inception", "efflite0"):
            assert logged_name(value, features) == f"val/{full_name(value, features)}"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (evaluation(every=5) | metric(KID), "evaluation.every = 5 computes val/kid_brightness only once"),
        (
            evaluation(guidance_scale=3.0) | {"model.conditioning.class_dropout_prob": 0.0},
            "evaluation.guidance_scale = 3 weighs the label against an unconditional estimate",
        ),
        (
            evaluation(guidance_scale=3.0) | {"model.conditioning.type": None, "model.conditioning.num_classes": None},
            "evaluation.guidance_scale = 3 has no effect: the model is unconditional",
        ),
    ],
)
def test_suspicious_settings_give_warnings(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.warns(ConfigWarning, match=re.escape(message)):
        tiny_config(tmp_path, changes)


class TestRefused:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"evaluation": {"num_samples": 50}}, "evaluation.num_samples = 50: has no effect .* evaluation=on"),
            (
                metric("val/kid_efflite0"),
                "training.validation.metric .* needs evaluation.enabled: true: add evaluation=on",
            ),
            (evaluation(features="pixels") | metric("val/kid_efflite0"), "did you mean 'val/kid_pixels'"),
            (evaluation(features="auto") | metric("val/precision_digits"), "give: val/fd_digits, val/kid_digits, "),
            (evaluation(features="pixels") | metric("kid_pixels"), "did you mean 'val/kid_pixels'"),
            (metric("kid"), "did you mean 'val/kid_digits'"),
            (metric("fid"), "did you mean 'val/fd_digits'"),
            (evaluation(num_samples=19), "evaluation.num_samples = 19: must be at least 20"),
            (evaluation(sampler_steps=21), "set evaluation.sampler_steps=20 or fewer"),
            (evaluation(sha256="0" * 64), "evaluation.sha256 .* evaluation.weights, which is null"),
            (evaluation(features="pixels", weights="x"), "evaluation.weights .* not with pixels"),
            (
                evaluation(metrics=["precision_recall"], features="pixels") | metric("val/recall_pixels", mode="min"),
                "training.validation.mode .* must be max or null",
            ),
            (
                evaluation(split="val") | {"training.validation.enabled": False},
                "evaluation.split .* set evaluation.split=train",
            ),
            (
                evaluation(metrics=["label_agreement"])
                | {"model.conditioning.type": None, "model.conditioning.num_classes": None},
                "evaluation.metrics .* unconditional model",
            ),
        ],
    )
    def test_by_the_settings(self, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            tiny_config(tmp_path, changes)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            (ON | {"data.count": 24}, "evaluation.split = train has 18 images, and an evaluation needs at least 20"),
            (evaluation(metrics=["inception_score"]), "inception_score with evaluation.features brightness"),
            (evaluation(num_samples=2**31 - 1), "evaluation.num_samples must be at most "),
            (evaluation(features=f"{OWN}.OneShort"), r"^evaluation\.features = brightness must return one vector"),
            (evaluation(features=f"{OWN}.NotFinite"), r"^evaluation\.features = brightness must be finite"),
            (
                ON | metric("val/recall_brightness"),
                "must be one of the evaluation, val/fd_brightness, val/kid_brightness",
            ),
        ],
    )
    def test_before_anything_is_written(self, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            tiny_run(tmp_path / "run", changes)
        assert not (tmp_path / "run").exists()

    def test_names_that_depend_on_a_file_of_weights_are_accepted(self, tmp_path: Path) -> None:
        name = "val/kid_inception-00000000"
        other = {"features": "inception", "weights": str(tmp_path / "fine_tuned.pth"), "sha256": "0" * 64}
        assert tiny_config(tmp_path, evaluation(**other) | metric(name)).training.validation.metric == name

    def test_metric_names_of_custom_callbacks_are_accepted(self, tmp_path: Path) -> None:
        own = {"training.callbacks": ["tests.promised.test_12_metric.Quality"]}
        assert tiny_config(tmp_path, own | metric("val/kid_mine")).training.validation.direction == "min"


def test_unknown_memory_sets_no_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample_evaluation, "host_memory", lambda: math.inf)
    settings = tiny_config(tmp_path, evaluation(num_samples=2**31 - 1)).evaluation
    SampleEvaluation(settings, TinySource(8, 1), None, is_conditional=False, seed=0)
