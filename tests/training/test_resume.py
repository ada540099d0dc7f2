"""A resumed run equals the uninterrupted one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from diffusion_lab.checkpoint import find_checkpoint
from diffusion_lab.checkpoint.files import step_name
from diffusion_lab.training.callbacks import ResumeOverrides
from diffusion_lab.training.callbacks.resume_overrides import ResumePlan
from tests.sameness import assert_equal
from tests.training.tiny import BIAS_PLAN, resume_of, saved, tiny_fit, tiny_run

NONE = {"type": None}
COSINE = {"type": "cosine", "T_max": 4, "eta_min": 1e-4}
AUTO = {"type": "cosine", "T_max": "auto", "eta_min": 1e-4}
WARMUP = {"type": "warmup_cosine", "warmup_steps": 4, "eta_min": 1e-4}
STEP = {"type": "step", "step_size": 1, "gamma": 0.5}
# The loss never falls by half in an epoch, so the rate drops after each one, the last before the interruption too.
PLATEAU = {"type": "plateau", "mode": "max", "factor": 0.5, "patience": 0}
SCHEDULES = {"none": NONE, "cosine": COSINE, "auto": AUTO, "warmup_cosine": WARMUP, "step": STEP, "plateau": PLATEAU}


def last(folder: Path) -> dict[str, Any]:
    return saved(find_checkpoint(folder, "last"))


def assert_same_run(actual: Path, expected: Path) -> None:
    for part in ("state_dict", "optimizer_states", "lr_schedulers"):
        assert_equal(last(actual)[part], last(expected)[part], part)
    assert last(actual)["global_step"] == 12


def losses(folder: Path, first: int = 0) -> list[tuple[int, float]]:
    """Return (step, loss) of every line from a step on, for training and validation."""
    lines = [json.loads(line) for line in (folder / "logs" / "metrics.jsonl").read_text().splitlines()]
    actual = [(line["step"], line.get("train/loss", line.get("val/loss"))) for line in lines]
    return [(step, loss) for step, loss in actual if step >= first]


def rate(folder: Path) -> float:
    """Return the final learning rate of a run."""
    value: float = last(folder)["optimizer_states"][0]["param_groups"][0]["lr"]
    return value


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def plain(runs: Path) -> Path:
    """Finished run of two epochs with a decreasing learning rate."""
    tiny_run(runs / "plain", {"training.scheduler": COSINE})
    return runs / "plain"


@pytest.fixture(scope="module")
def without_optimizer(runs: Path) -> Path:
    """Finished run of two epochs, saved without optimizer state."""
    tiny_run(runs / "light", {"training.checkpointing.save_optimizer": False})
    return runs / "light"


class TestSameRun:
    @pytest.mark.parametrize("name", ["warmup_cosine", "step"])
    def test_interrupted_in_the_middle(self, name: str, tmp_path: Path) -> None:
        """The resumed run has another folder."""
        changes = {"training.epochs": 4, "training.scheduler": SCHEDULES[name], "training.ema.decay": 0.9}
        tiny_run(tmp_path / "whole", changes)
        middle = tmp_path / "whole" / "checkpoints" / step_name(6)
        tiny_run(tmp_path / "resumed", {**changes, **resume_of(middle)})
        assert_same_run(tmp_path / "resumed", tmp_path / "whole")
        assert losses(tmp_path / "resumed") == losses(tmp_path / "whole", first=6)

    @pytest.mark.parametrize("name", ["none", "cosine", "plateau", "auto"])
    def test_two_epochs_extended_by_two(self, name: str, tmp_path: Path) -> None:
        """In the same folder. Values derived from the number of epochs (auto) are as if it had always been four."""
        changes = {"training.scheduler": SCHEDULES[name], "training.ema.decay": 0.9}
        whole, extended = tmp_path / "whole", tmp_path / "extended"
        tiny_run(whole, {**changes, "training.epochs": 4})
        tiny_run(extended, changes)
        tiny_run(extended, {**changes, "training.epochs": 4, **resume_of(extended)})
        assert [step for step, _ in losses(extended)] == [0, 1, 2, 2, 3, 4, 5, 5, 6, 7, 8, 8, 9, 10, 11, 11]
        if name == "auto":
            assert rate(extended) == pytest.approx(rate(whole))
        else:
            assert_same_run(extended, whole)
            assert losses(extended) == losses(whole)

    def test_under_accumulation_with_a_partly_filled_last_step(self, tmp_path: Path) -> None:
        changes = {"training.epochs": 4, "training.scheduler": WARMUP, "training.accumulate_batches": 2}
        tiny_run(tmp_path / "a", changes)
        tiny_run(tmp_path / "b", {**changes, **resume_of(tmp_path / "a" / "checkpoints" / step_name(4))})
        assert_equal(last(tmp_path / "b")["state_dict"], last(tmp_path / "a")["state_dict"])
        assert last(tmp_path / "b")["global_step"] == 8  # two an epoch
        assert rate(tmp_path / "a") == pytest.approx(1e-4)  # so the schedule is down exactly at the end

    def test_with_several_averages(self, tmp_path: Path) -> None:
        changes = {"training.epochs": 4, "training.ema.decay": 0.9, "training.ema.further_decays": [0.5, 0.99]}
        tiny_run(tmp_path / "whole", changes)
        middle = tmp_path / "whole" / "checkpoints" / step_name(6)
        tiny_run(tmp_path / "resumed", {**changes, **resume_of(middle)})
        assert_same_run(tmp_path / "resumed", tmp_path / "whole")


def test_plateau_drops_only_after_a_validation(tmp_path: Path) -> None:
    tiny_run(tmp_path, {"training.epochs": 5, "training.scheduler": PLATEAU, "training.validation.frequency": 2})
    assert rate(tmp_path) == pytest.approx(0.01 * 0.5)  # validated after epochs 2 and 4, the first one is the measure


class TestFolders:
    def test_another_folder_holds_a_complete_run_and_the_first_is_unchanged(self, plain: Path, tmp_path: Path) -> None:
        before = {path: path.stat().st_mtime_ns for path in plain.rglob("*")}
        summary = tiny_run(tmp_path / "b", {"training.epochs": 3, "training.scheduler": COSINE, **resume_of(plain)})
        assert {path: path.stat().st_mtime_ns for path in plain.rglob("*")} == before
        assert json.loads((tmp_path / "b" / "status.json").read_text())["state"] == "finished"
        assert (summary.epochs, summary.steps, summary.best_epoch) == (3, 9, 3)
        assert summary.best_checkpoint is not None
        assert Path(summary.best_checkpoint).is_file()

    def test_best_of_a_folder_is_a_file_in_it(self, plain: Path, tmp_path: Path) -> None:
        """The model gets worse by construction, so the best is in the other folder."""
        changes = BIAS_PLAN | {"training.epochs": 3, "training.ema.decay": 0.0}
        summary = tiny_run(tmp_path, changes | resume_of(plain, reset_optimizer=True, reset_scheduler=True))
        then = json.loads((plain / "summary.json").read_text())
        assert summary.best_value is not None
        assert summary.best_value > then["best_value"]
        assert Path(str(summary.best_checkpoint)).is_file()

    def test_run_of_the_same_folder_needs_no_overwrite(self, tmp_path: Path) -> None:
        tiny_run(tmp_path, {"training.epochs": 1})
        tiny_run(tmp_path, {**resume_of(find_checkpoint(tmp_path, "last"))})
        assert last(tmp_path)["diffusion_lab"]["epochs_done"] == 2

    def test_overwritten_folder_keeps_nothing_of_the_earlier_run(self, plain: Path, tmp_path: Path) -> None:
        tiny_run(tmp_path, {"training.epochs": 7})
        changes = {"training.epochs": 3, "training.scheduler": COSINE, "output.overwrite": True}
        tiny_run(tmp_path, changes | resume_of(plain))
        assert {path.name for path in (tmp_path / "checkpoints").glob("step_*.ckpt")} == {step_name(9)}
        assert {step for step, _ in losses(tmp_path)} == {6, 7, 8}


def test_unset_seed_is_that_of_the_resumed_run(plain: Path, tmp_path: Path) -> None:
    changes = {"training.epochs": 3, "training.scheduler": COSINE, "compute.seed": None}
    tiny_run(tmp_path, changes | resume_of(plain))
    seeds = [last(folder)["diffusion_lab"]["config"]["compute"]["seed"] for folder in (plain, tmp_path)]
    assert seeds[0] == seeds[1]


class TestResets:
    def test_nothing_reset_keeps_the_state_of_both(self, plain: Path, tmp_path: Path) -> None:
        tiny_run(tmp_path, {"training.epochs": 3, "training.scheduler": COSINE, **resume_of(plain)})
        (state,) = last(tmp_path)["optimizer_states"]
        assert {int(entry["step"]) for entry in state["state"].values()} == {9}
        assert last(tmp_path)["lr_schedulers"][0]["last_epoch"] == 3

    def test_reset_optimizer_drops_its_state_and_keeps_the_rate(self, plain: Path, tmp_path: Path) -> None:
        changes = {"training.epochs": 3, "training.scheduler": COSINE}
        tiny_run(tmp_path / "reset", {**changes, **resume_of(plain, reset_optimizer=True)})
        tiny_run(tmp_path / "kept", {**changes, **resume_of(plain)})
        (state,) = last(tmp_path / "reset")["optimizer_states"]
        assert {int(entry["step"]) for entry in state["state"].values()} == {3}
        assert rate(tmp_path / "reset") == rate(tmp_path / "kept")

    def test_reset_scheduler_starts_with_the_rate_of_the_new_settings(self, plain: Path, tmp_path: Path) -> None:
        changes = {
            "training.epochs": 3,
            "training.optimizer.learning_rate": 0.002,
            "training.scheduler": {"type": "step", "step_size": 10, "gamma": 0.5},
        }
        tiny_run(tmp_path, {**changes, **resume_of(plain, reset_scheduler=True)})
        assert rate(tmp_path) == 0.002
        assert last(tmp_path)["lr_schedulers"][0]["last_epoch"] == 1
        (state,) = last(tmp_path)["optimizer_states"]
        assert {int(entry["step"]) for entry in state["state"].values()} == {9}

    def test_reset_scheduler_spans_the_remaining_epochs(self, plain: Path, tmp_path: Path) -> None:
        """Restarted after two of four epochs, it reaches its minimum at the end, by steps and by epochs."""
        for name, schedule in (("steps", WARMUP), ("epochs", AUTO)):
            changes = {"training.epochs": 4, "training.scheduler": schedule}
            tiny_run(tmp_path / name, {**changes, **resume_of(plain, reset_scheduler=True)})
            assert rate(tmp_path / name) == pytest.approx(1e-4)

    def test_reset_scheduler_without_a_schedule(self, plain: Path, tmp_path: Path) -> None:
        changes = {"training.epochs": 3, "training.optimizer.learning_rate": 0.002}
        tiny_run(tmp_path, {**changes, **resume_of(plain, reset_scheduler=True)})
        assert rate(tmp_path) == 0.002

    def test_first_resumed_epoch_has_the_right_rate(self, plain: Path, tmp_path: Path) -> None:
        """Checked before the first step, not only at the end."""
        seen: list[float] = []

        class Look(ResumeOverrides):
            def on_train_start(self, trainer: Any, pl_module: Any) -> None:
                super().on_train_start(trainer, pl_module)
                seen.append(trainer.optimizers[0].param_groups[0]["lr"])

        changes = {"training.epochs": 3, "training.scheduler": COSINE, "training.optimizer.learning_rate": 0.004}
        for number, resets in enumerate(((True, False), (False, True))):
            tiny_fit(tmp_path / str(number), [Look(ResumePlan(*resets))], changes, find_checkpoint(plain, "last"))
        assert seen == [pytest.approx((0.004 + 1e-4) / 2), pytest.approx(0.004)]


class TestRefusals:
    """None of them leaves a trace in the new folder."""

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"model.architecture.model_channels": 16}, "weights of another architecture"),
            (
                {"model.diffusion.num_timesteps": 30},
                r"model\.diffusion\.num_timesteps must be the checkpoint's value, 20, got 30",
            ),
            # The tensors have the same shapes, and would mean something else.
            ({"model.architecture.head_channels": 16}, r"model\.architecture\.head_channels must be .* 32, got 16"),
            ({"training.ema.enabled": False}, "training.ema.enabled must be the checkpoint's value, true, got false"),
            (
                {"training.ema.further_decays": [0.5]},
                r"training\.ema\.further_decays must be the checkpoint's value, \[\], got \[0\.5\]",
            ),
            ({"compute.seed": 5}, "compute.seed must be the checkpoint's value, 0, got 5 .*set it to null"),
            (
                {"training.optimizer.type": "adamw"},
                'training.optimizer.type must be .* "adam", got .*reset_optimizer=true',
            ),
            ({"training.scheduler": STEP}, 'training.scheduler.type must be .* "cosine", got .*reset_scheduler=true'),
        ],
    )
    def test_settings_that_contradict_the_checkpoint(
        self, plain: Path, tmp_path: Path, changes: dict[str, Any], message: str
    ) -> None:
        settings = {"training.epochs": 3, "training.scheduler": COSINE, **resume_of(plain), **changes}
        with pytest.raises(ValueError, match=message):
            tiny_run(tmp_path / "b", settings)
        assert not (tmp_path / "b").exists()

    def test_averages_in_another_order(self, tmp_path: Path) -> None:
        """Each would continue from the weights of the other."""
        tiny_run(tmp_path / "a", {"training.ema.further_decays": [0.5, 0.99]})
        settings = {"training.epochs": 3, "training.ema.further_decays": [0.99, 0.5], **resume_of(tmp_path / "a")}
        with pytest.raises(ValueError, match=r"must be the checkpoint's value, \[0\.5, 0\.99\], got \[0\.99, 0\.5\]"):
            tiny_run(tmp_path / "b", settings)
        assert not (tmp_path / "b").exists()

    @pytest.mark.parametrize("resets", [{}, {"reset_optimizer": True}, {"reset_scheduler": True}])
    def test_without_optimizer_state(self, without_optimizer: Path, tmp_path: Path, resets: dict[str, bool]) -> None:
        with pytest.raises(ValueError, match=r"no optimizer state.*reset_optimizer=true and .*reset_scheduler=true"):
            tiny_run(tmp_path / "b", {"training.epochs": 3, **resume_of(without_optimizer, **resets)})
        assert not (tmp_path / "b").exists()

    def test_without_optimizer_state_and_both_reset(self, without_optimizer: Path, tmp_path: Path) -> None:
        resets = {"reset_optimizer": True, "reset_scheduler": True}
        summary = tiny_run(tmp_path, {"training.epochs": 3, **resume_of(without_optimizer, **resets)})
        assert (summary.epochs, summary.steps) == (3, 9)
        assert losses(tmp_path)[0][0] == 6

    def test_weights_alone(self, plain: Path, tmp_path: Path) -> None:
        weights = {
            key.removeprefix("denoiser."): value
            for key, value in last(plain)["state_dict"].items()
            if key.startswith("denoiser.")
        }
        torch.save(weights, tmp_path / "weights.pt")
        with pytest.raises(ValueError, match=r"training.resume.checkpoint must be a file written by train\.py"):
            tiny_run(tmp_path / "b", {"training.epochs": 3, **resume_of(tmp_path / "weights.pt")})
        assert not (tmp_path / "b").exists()

    def test_folder_without_a_checkpoint(self, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        with pytest.raises(FileNotFoundError, match=r"no valid checkpoint"):
            tiny_run(tmp_path / "b", resume_of(tmp_path / "empty"))
        assert not (tmp_path / "b").exists()
