"""Results of a sweep are ranked if they measure the same, and listed as separate groups otherwise."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import CompactHydraException, HydraException
from omegaconf import DictConfig, OmegaConf

from diffusion_lab.console import command_line
from diffusion_lab.faults.unresolved import resolved
from diffusion_lab.sweeps.comparable import measured_by
from diffusion_lab.sweeps.job_record import FAILED, FINISHED, JobRecord
from diffusion_lab.sweeps.jobs import SweepCallback, _refuse_without_value
from diffusion_lab.sweeps.optuna_study import OPTUNA_SWEEPER
from diffusion_lab.sweeps.ranking import best_job, ranked, read_records
from diffusion_lab.sweeps.summary import sweep_summary

ROOT = Path(__file__).resolve().parents[2]
Composed = Callable[..., DictConfig]
Measured = Callable[..., dict[str, Any]]


@pytest.fixture
def measured(composed: Composed) -> Measured:
    """Return what the metric of `train.py` with some overrides measures."""

    def measure(*overrides: str, images: str = "0123456789") -> dict[str, Any]:
        fingerprints = {"validation_fingerprint": images, "data_fingerprint": f"training {images}"}
        return measured_by(resolved(composed("train", *overrides), []), fingerprints)

    return measure


@pytest.mark.parametrize(
    "override",
    [
        "optimizer=adam",
        "training.optimizer.learning_rate=0.5",
        "model=dit_tiny",
        "scheduler=none",
        "training.ema.decay=0.5",
        "data.augmentation.horizontal_flip=true",
        "data.loading.batch_size=8",
        "compute.seed=3",
        "training.epochs=2",
        "training.loss.stratified=false",
        "model.diffusion.beta_end=0.03",  # not read by the cosine process
        "model.diffusion.sigma_data=0.3",  # nor this by its prediction and weighting
        "penalty=mse",
    ],
)
def test_usual_sweep_settings_leave_results_comparable(override: str, measured: Measured) -> None:
    assert measured(override) == measured()


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("diffusion=linear", "model.diffusion.beta_schedule"),
        ("diffusion=flow", "model.diffusion.type"),
        ("model.diffusion.num_timesteps=500", "model.diffusion.num_timesteps"),
        ("model.diffusion.zero_terminal_snr=true", "model.diffusion.zero_terminal_snr"),
        ("model.diffusion.prediction=epsilon", "model.diffusion.prediction"),
        ("penalty=l1", "training.loss.penalty.type"),
        ("weighting=min_snr", "training.loss.weighting.type"),
        ("times=uniform", "training.loss.times.type"),
        ("model.architecture.image_size=16", "model.architecture.image_size"),
        ("model.architecture.in_channels=3", "model.architecture.in_channels"),
        ("conditioning=none", "model.conditioning.type"),
        ("model.conditioning.class_dropout_prob=0.5", "model.conditioning.class_dropout_prob"),
    ],
)
def test_settings_that_change_the_metric_separate_results(override: str, key: str, measured: Measured) -> None:
    one, other = measured(), measured(override)
    assert key in {name for name in one.keys() | other.keys() if one.get(name) != other.get(name)}


def test_only_options_used_by_the_process_count(measured: Measured) -> None:
    flow = ("diffusion=flow", "model.diffusion.noise_shift=2")
    assert measured(*flow) != measured("diffusion=flow")
    assert measured("diffusion=flow", "model.diffusion.num_timesteps=7") == measured("diffusion=flow")
    linear = ("diffusion=linear", "model.diffusion.beta_end=0.03")
    assert measured(*linear) != measured("diffusion=linear")
    edm = ("diffusion=edm", "model.diffusion.sigma_data=0.3")
    assert measured(*edm) != measured("diffusion=edm")


def test_an_explicit_default_is_the_same(measured: Measured) -> None:
    assert measured("weighting=min_snr", "training.loss.weighting.gamma=5.0") == measured("weighting=min_snr")
    assert measured("weighting=min_snr", "training.loss.weighting.gamma=3") != measured("weighting=min_snr")


class TestEvaluation:
    """Metrics of the evaluation are comparable for any process and loss, if samples are made in the same way."""

    KID = ("evaluation=on", "training.validation.metric=val/kid_digits")

    @pytest.mark.parametrize(
        "override",
        [
            "diffusion=flow",
            "model.diffusion.prediction=epsilon",
            "weighting=min_snr",
            "evaluation.every=3",
            "model=dit_tiny",
        ],
    )
    def test_settings_that_leave_results_comparable(self, override: str, measured: Measured) -> None:
        assert measured(*self.KID, override) == measured(*self.KID)

    @pytest.mark.parametrize(
        "override",
        [
            "evaluation.num_samples=300",
            "evaluation.features=pixels",
            "evaluation.split=val",
            "evaluation.sampler_steps=20",
            "evaluation.guidance_scale=2",
            "model.architecture.image_size=16",
            "conditioning=none",
        ],
    )
    def test_settings_that_separate_results(self, override: str, measured: Measured) -> None:
        assert measured(*self.KID, override) != measured(*self.KID)

    def test_guidance_counts_where_samples_are_guided(self, measured: Measured) -> None:
        rescaled, guided = "guidance.rescale=0.5", (*self.KID, "evaluation.guidance_scale=3")
        assert measured(*self.KID, rescaled) == measured(*self.KID)
        assert measured(*guided, rescaled) != measured(*guided)
        assert measured(*guided, "conditioning=none", rescaled) == measured(*guided, "conditioning=none")

    def test_images_are_those_of_the_split(self, measured: Measured) -> None:
        assert measured(*self.KID, images="a")["validation images"] == "training a"
        assert measured(*self.KID, "evaluation.split=val", images="a")["validation images"] == "a"

    def test_the_highest_recall_comes_first(self, sweep: Sweep, measured: Measured) -> None:
        recall = (
            "evaluation=on",
            "training.validation.metric=val/recall_digits",
            "evaluation.metrics=[precision_recall]",
        )
        sweep.job("low", 0.2, measured(*recall))
        sweep.job("high", 0.9, measured(*recall))
        assert ranked(read_records(sweep.folder)) == [["high", "low"]]


def test_other_images_are_another_measure(measured: Measured) -> None:
    assert measured(images="a") != measured(images="b")


class Sweep:
    """Folder of finished jobs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def job(self, name: str, value: float | None, measured: dict[str, Any] | None, state: str = FINISHED) -> None:
        (self.folder / name).mkdir()
        JobRecord((f"name={name}",), state, {}, metric="val/loss", best_value=value, measured=measured).write(
            self.folder / name
        )

    def summary(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads((self.folder / "sweep.json").read_text())
        return found


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    monkeypatch.setattr(SweepCallback, "folder", tmp_path)
    monkeypatch.setattr(SweepCallback, "signals", None)
    return Sweep(tmp_path)


def test_the_highest_comes_first_if_higher_is_better(sweep: Sweep, measured: Measured) -> None:
    score = measured(
        "training.callbacks=[my_lab.Score]", "training.validation.metric=score", "training.validation.mode=max"
    )
    for name, value in (("a", 0.3), ("b", 0.1), ("c", 0.2)):
        sweep.job(name, value, score)
    assert ranked(read_records(sweep.folder)) == [["a", "c", "b"]]
    assert best_job(sweep.folder) == sweep.folder / "a"


class Direction(Enum):
    """Direction as in the configuration of the Optuna sweeper."""

    minimize = 1
    maximize = 2


@pytest.mark.parametrize("direction", [Direction.minimize, "minimize", None])
def test_a_search_in_the_wrong_direction_is_refused(
    composed: Composed, monkeypatch: pytest.MonkeyPatch, direction: Direction | str | None
) -> None:
    sweeper = {"_target_": OPTUNA_SWEEPER, **({} if direction is None else {"direction": direction})}
    runtime = {"choices": {"hydra/sweeper": "optuna"}}
    monkeypatch.setattr(HydraConfig, "get", lambda: OmegaConf.create({"sweeper": sweeper, "runtime": runtime}))
    _refuse_without_value(resolved(composed("train"), []))
    recall = ["evaluation=on", "training.validation.metric=val/recall_digits", "training.validation.enabled=false"]
    if direction is not None:
        with pytest.raises(ValueError, match="direction must be maximize"):
            _refuse_without_value(resolved(composed("train", *recall), []))
    upwards = resolved(composed("train", "training.validation.mode=max"), [])
    if direction is None:  # a sweeper that knows no direction
        _refuse_without_value(upwards)
        return
    with pytest.raises(ValueError, match=r"direction must be maximize, as training\.validation\.mode says"):
        _refuse_without_value(upwards)


def test_the_lowest_comes_first(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in (("a", 0.3), ("b", 0.1), ("c", 0.2)):
        sweep.job(name, value, {"prediction": "v"})
    sweep.job("d", None, None, FAILED)
    with sweep_summary():
        pass
    message = capsys.readouterr().err
    positions = [message.index(f"name={name}") for name in "bcad"]
    assert positions == sorted(positions)
    assert "groups" not in message
    assert [(job["folder"], job["rank"], job["group"]) for job in sweep.summary()] == [
        ("a", 3, 0),
        ("b", 1, 0),
        ("c", 2, 0),
        ("d", None, None),
    ]
    assert best_job(sweep.folder) == sweep.folder / "b"


def test_incomparable_results_are_not_ranked_together(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    sweep.job("a", 0.3, {"prediction": "v", "size": 8})
    sweep.job("b", 0.01, {"prediction": "epsilon", "size": 8})
    sweep.job("c", 0.2, {"prediction": "v", "size": 8})
    assert ranked(read_records(sweep.folder)) == [["c", "a"], ["b"]]
    with sweep_summary():
        pass
    message = capsys.readouterr().err
    for row in ("A1 │ name=c", "A2 │ name=a", "B1 │ name=b"):
        assert row in " ".join(message.replace("│ ", "│ ").split())
    assert "Ranked within groups only, since val/loss measures something different in each" in message
    assert '  A: prediction "v"\n  B: prediction "epsilon"\n' in message
    with pytest.raises(ValueError, match="cannot all be compared") as several:
        best_job(sweep.folder)
    assert str(sweep.folder / "c") in str(several.value)
    assert str(sweep.folder / "b") in str(several.value)


def test_other_validation_images_are_named(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    sweep.job("a", 0.3, {"validation images": "01234567" * 8})
    sweep.job("b", 0.1, {"validation images": "89abcdef" * 8})
    with sweep_summary():
        pass
    assert "  A: validation images 01234567…\n  B: validation images 89abcdef…\n" in capsys.readouterr().err


def test_invalid_and_older_results_have_no_rank(sweep: Sweep) -> None:
    sweep.job("a", float("nan"), {"prediction": "v"})
    sweep.job("b", 0.1, None)
    assert ranked(read_records(sweep.folder)) == []
    with pytest.raises(ValueError, match="no finished job with a value"):
        best_job(sweep.folder)


def test_a_lost_job_is_reported_in_one_message(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    sweep.job("a", None, None, "running")  # and its process is gone
    with pytest.raises(SystemExit) as left, sweep_summary():
        raise RuntimeError("A worker process managed by the executor was unexpectedly terminated.\nMuch more")
    assert left.value.code == 1
    message = capsys.readouterr().err
    assert "died" in message
    assert "Error: the process of a job ended without a result" in message
    assert "Much more" not in message


def test_an_interval_needs_a_search(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left, sweep_summary():
        raise HydraException("BasicSweeper does not support sweep type : INTERVAL_SWEEP")
    assert left.value.code == 2
    assert "add hydra/sweeper=optuna" in capsys.readouterr().err


def test_the_command_for_missing_jobs_can_be_pasted(
    sweep: Sweep, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = ["-m", "name='my photos',b", "hydra.sweep.dir=elsewhere"]
    monkeypatch.setattr(command_line, "_typed", ("train", tuple(typed)))
    sweep.job("a", None, None, FAILED)
    with sweep_summary():
        pass
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("run the missing jobs with: ")]
    words = shlex.split(line.removeprefix("run the missing jobs with: "))
    assert Path(words[1]).resolve() == ROOT / "train.py"
    assert words[2:-1] == typed[:2]
    (override,) = OverridesParser.create().parse_overrides(words[-1:])
    assert (override.key_or_group, override.value()) == ("hydra.sweep.dir", str(sweep.folder))


def test_a_failed_composition_is_not_a_sweep(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CompactHydraException), sweep_summary():
        raise CompactHydraException("no")
    assert capsys.readouterr().err == ""
