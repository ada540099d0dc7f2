"""A setting that differs from the checkpoint is applied and reported, or is refused, as in the table of the docs."""

from __future__ import annotations

import io
import re
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from torch.optim.lr_scheduler import ExponentialLR

from diffusion_lab.checkpoint import Checkpoint, find_checkpoint
from diffusion_lab.checkpoint.files import step_name
from diffusion_lab.config.model_section import ModelSettings
from diffusion_lab.config.schema import TrainConfig
from diffusion_lab.config.validate import parse_section
from diffusion_lab.data.source import ArraySource, ImageSource
from diffusion_lab.training import prepare
from diffusion_lab.training.resume import same_results
from diffusion_lab.training.resume_checks import changes_from
from diffusion_lab.training.resume_rules import RULES, Effect, changes_since, effect_of
from diffusion_lab.training.resume_source import ResumeSource
from diffusion_lab.typed_settings.settings_reader import leaves
from tests.training.test_optimizers import PlainDescent
from tests.training.tiny import CLASSES, TinySource, resume_of, saved, tiny_config, tiny_run
from tests.typed_settings.own_classes import HERE

COSINE = {"type": "cosine", "T_max": 4, "eta_min": 1e-4}
WARMUP = {"type": "warmup_cosine", "warmup_steps": 4, "eta_min": 1e-4}
STEP = {"type": "step", "step_size": 1, "gamma": 0.5}
PLATEAU = {"type": "plateau", "mode": "max", "factor": 0.5, "patience": 0}
BASE = {"training.ema.decay": 0.9, "training.ema.warmup": False}
DOCS = Path(__file__).parents[2] / "docs" / "resuming.md"


class KeepingDescent(PlainDescent):
    """Does not store an option in its parameter groups, so that a resumed run cannot see whether it changed."""


class Decay(ExponentialLR):
    """Schedule that computes its rate from the previous one."""


class OtherImages(TinySource):
    """The same number of other images of the same classes."""

    def __init__(self, image_size: int, channels: int, count: int = 24) -> None:
        super().__init__(image_size, channels, count)
        self.images = self.images + np.uint8(1)


class OtherNames(ArraySource):
    """The images of ``TinySource`` with a class renamed."""

    def __init__(self, image_size: int, channels: int) -> None:
        tiny = TinySource(image_size, channels)
        super().__init__(tiny.images, tiny.labels, ("low", "medium", "high"))


class NamesWithLineBreaks(ArraySource):
    """The images of ``TinySource`` with a class whose name would look like a message of the program."""

    def __init__(self, image_size: int, channels: int) -> None:
        tiny = TinySource(image_size, channels)
        super().__init__(tiny.images, tiny.labels, ("low", "high\nError: disk full", "high"))


class OtherOrder(ArraySource):
    """The images of ``TinySource`` with other class numbers, as from another order of folders."""

    def __init__(self, image_size: int, channels: int) -> None:
        tiny = TinySource(image_size, channels)
        super().__init__(tiny.images, (tiny.labels + 1) % 3, (CLASSES[2], CLASSES[0], CLASSES[1]))


class FewerClasses(ImageSource):
    """Images of two of the three classes."""

    def __init__(self, image_size: int, channels: int) -> None:
        self.inner = TinySource(image_size, channels)
        self.indices = np.flatnonzero(self.inner.labels > 0)
        self.labels, self.class_names = self.inner.labels[self.indices] - 1, CLASSES[1:]
        self.image_size, self.channels = image_size, channels

    def load(self, index: int, rng: np.random.Generator | None) -> Any:
        return self.inner.load(int(self.indices[index]), rng)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of two epochs, by the type of the learning-rate schedule."""
    folder = tmp_path_factory.mktemp("runs")
    for name, schedule in {"none": {"type": None}, "cosine": COSINE, "step": STEP, "plateau": PLATEAU}.items():
        tiny_run(folder / name, {**BASE, "training.scheduler": schedule})
    return folder


def resumed(folder: Path, origin: Path, changes: dict[str, Any], **resume: Any) -> tuple[dict[str, Any], str]:
    """Return the last checkpoint of a run of four epochs that resumes after two, and its output."""
    console = Console(file=io.StringIO(), width=200)
    settings = {**BASE, "training.epochs": 4, **resume_of(origin)}
    settings["training.resume"] = {**settings["training.resume"], **resume}
    tiny_run(folder, {**settings, **changes}, console)
    return saved(find_checkpoint(folder, "last")), console.file.getvalue()  # type: ignore[attr-defined]


def group_of(content: dict[str, Any]) -> dict[str, Any]:
    group: dict[str, Any] = content["optimizer_states"][0]["param_groups"][0]
    return group


class TestTable:
    def test_every_key_of_a_run_has_a_rule(self, tmp_path: Path) -> None:
        keys = leaves(tiny_config(tmp_path).model_dump(mode="json"))
        assert [key for key in keys if effect_of(key) is None] == []

    def test_docs_have_the_rows(self) -> None:
        rows = re.findall(r"^\| (`[^|]*`) \| (.*) \|$", DOCS.read_text(), re.MULTILINE)
        effects = {key: words for keys, words in rows for key in re.findall(r"`([^`]+)`", keys)}
        assert effects.keys() == RULES.keys()
        for key, effect in RULES.items():
            assert effects[key].startswith(effect.value), key

    def test_nothing_differs_from_itself(self, tmp_path: Path) -> None:
        config = tiny_config(tmp_path)
        assert changes_since(config.model_dump(mode="json"), config) == []

    def test_a_checkpoint_without_a_newer_key_had_its_default(self, tmp_path: Path) -> None:
        config = tiny_config(tmp_path, {"training.accumulate_batches": 2})
        then = config.model_dump(mode="json")
        del then["training"]["accumulate_batches"], then["training"]["ema"]["warmup"]
        assert [str(change) for change in changes_since(then, config)] == [
            "training.accumulate_batches was 1 in the checkpoint and is 2"
        ]

    @pytest.mark.parametrize(
        ("metric", "scale", "expected"),
        [
            ("val/kid_pixels", 3.0, ["guidance.rescale", "evaluation.every"]),
            ("val/kid_pixels", 1.0, ["evaluation.every"]),
            ("loss", 3.0, []),
        ],
    )
    def test_what_samples_are_made_by_counts_where_their_metric_is_watched(
        self, tmp_path: Path, metric: str, scale: float, expected: list[str]
    ) -> None:
        section = {"enabled": True, "features": "pixels", "guidance_scale": scale, "every": 2}
        given = {"training.validation.metric": metric, "evaluation": section}
        then = tiny_config(tmp_path, given).model_dump(mode="json")
        other = {"guidance": {"rescale": 0.5}, "evaluation": section | {"every": 1}}
        assert [change.key for change in changes_since(then, tiny_config(tmp_path, given | other))] == expected

    def test_what_is_logged_is_another_where_samples_are_made_otherwise(self, tmp_path: Path) -> None:
        section = {"enabled": True, "features": "pixels", "guidance_scale": 3.0}
        config = tiny_config(tmp_path, {"evaluation": section})
        origin = ResumeSource(tmp_path, 1, 1, config.model_dump(mode="json"), None, None, None)
        assert same_results(config, origin)
        for other in ({"evaluation": section | {"num_samples": 30}}, {"guidance": {"rescale": 0.5}}):
            assert not same_results(tiny_config(tmp_path, {"evaluation": section} | other), origin)

    def test_values_from_a_checkpoint_reach_no_terminal_raw(self, tmp_path: Path) -> None:
        config = tiny_config(tmp_path)
        then = config.model_dump(mode="json")
        then["training"]["optimizer"]["type"] = "a\x9b2Jb"
        assert "\x9b" not in str(changes_since(then, config)[0])


class TestApplied:
    @pytest.mark.parametrize(
        ("key", "value", "name"),
        [
            ("training.optimizer.learning_rate", 1e-5, "lr"),
            ("training.optimizer.weight_decay", 0.5, "weight_decay"),
            ("training.optimizer.betas", [0.5, 0.7], "betas"),
            ("training.optimizer.eps", 1e-3, "eps"),
            ("training.optimizer.maximize", True, "maximize"),
            ("training.optimizer.foreach", True, "foreach"),
            ("training.optimizer.decoupled_weight_decay", True, "decoupled_weight_decay"),
        ],
    )
    def test_options_of_the_optimizer(self, runs: Path, tmp_path: Path, key: str, value: Any, name: str) -> None:
        content, output = resumed(tmp_path, runs / "none", {key: value})
        assert group_of(content)[name] == (tuple(value) if isinstance(value, list) else value)
        (state,) = content["optimizer_states"]
        assert {int(entry["step"]) for entry in state["state"].values()} == {12}  # its averages continued
        assert re.search(rf"{re.escape(key)} was .* in the checkpoint and is ", output)
        assert key in (tmp_path / "logs" / "run.log").read_text()

    @pytest.mark.parametrize(
        ("changes", "rate"),
        [
            ({"training.scheduler": COSINE, "training.optimizer.learning_rate": 0.002}, (0.002 + 1e-4) / 2),
            ({"training.scheduler": {**COSINE, "eta_min": 0.004}}, (0.01 + 0.004) / 2),
            ({"training.scheduler": {**COSINE, "T_max": 2}}, 1e-4),
            ({"training.scheduler": STEP, "training.optimizer.learning_rate": 0.002}, 0.002 / 4),
            ({"training.scheduler": {**STEP, "gamma": 0.1}}, 0.01 / 100),
            ({"training.scheduler": {**STEP, "step_size": 2}}, 0.01 / 2),
            ({"training.scheduler": PLATEAU, "training.optimizer.learning_rate": 0.002}, 0.002 / 2),
        ],
    )
    def test_the_schedule_is_rebuilt_at_its_position(
        self, runs: Path, tmp_path: Path, changes: dict[str, Any], rate: float
    ) -> None:
        """The learning rate of the first resumed step is that in the first line of the metrics."""
        origin = runs / changes["training.scheduler"]["type"]
        resumed(tmp_path, origin, changes)
        first = (tmp_path / "logs" / "metrics.jsonl").read_text().splitlines()[0]
        assert float(re.findall(r'"train/learning_rate": ([\d.e-]+)', first)[0]) == pytest.approx(rate)

    def test_options_of_plateau(self, runs: Path, tmp_path: Path) -> None:
        """The run of two epochs dropped once; with more patience, or a floor, it does not drop again."""
        for name, value in {"patience": 9, "min_lr": 0.005}.items():
            folder, changes = tmp_path / name, {"training.scheduler": {**PLATEAU, name: value}}
            content, output = resumed(folder, runs / "plateau", changes)
            assert group_of(content)["lr"] == pytest.approx(0.005)
            assert f"training.scheduler.{name} was " in output

    @pytest.mark.parametrize(
        "changes",
        [
            {"training.ema.decay": 0.3},
            {"training.ema.warmup": True},
            {"training.optimizer.gradient_clip_norm": 1e-3},
            {"training.loss": {"penalty": {"type": "l1"}}},
            {"training.loss": {"stratified": False}},
            {"training.performance.precision": "bf16"},
            {"training.accumulate_batches": 3},
            {"model.architecture.dropout": 0.5},
            {"model.conditioning.class_dropout_prob": 0.9},
            {"data.augmentation.horizontal_flip": False},
            {"data.loading.batch_size": 4},
            {"data.loading.shuffle_train": False},
        ],
        ids=lambda changes: next(iter(changes)),
    )
    def test_other_keys_change_the_weights(self, runs: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
        same, _ = resumed(tmp_path / "same", runs / "none", {})
        other, output = resumed(tmp_path / "other", runs / "none", changes)
        averages = [
            torch.cat([value.flatten() for name, value in content["state_dict"].items() if name.startswith("ema.av")])
            for content in (same, other)
        ]
        assert not torch.equal(*averages)
        assert f"{next(iter(changes))}" in output
        assert "in the checkpoint and is" in output

    def test_nothing_is_printed_if_nothing_differs(self, runs: Path, tmp_path: Path) -> None:
        _, output = resumed(
            tmp_path, runs / "none", {"training.log_interval": 2, "training.checkpointing": CHECKPOINTING}
        )
        assert re.findall(r"([\w.]+) was", output) == ["training.epochs"]

    def test_changed_loss_selects_the_best_again(self, runs: Path, tmp_path: Path) -> None:
        """In its own folder, where the earlier best would remain otherwise; its file is kept."""
        tiny_run(tmp_path, BASE)
        old = (tmp_path / "checkpoints" / "best.ckpt").resolve()
        changes = {"training.loss": {"weighting": {"type": "min_snr", "gamma": 100.0}}}
        _, output = resumed(tmp_path, tmp_path, changes)
        assert "the best checkpoint is selected again" in output
        assert old.is_file()
        assert (tmp_path / "checkpoints" / "best.ckpt").resolve() != old


CHECKPOINTING = {"save_frequency": 1, "save_best_only": False, "save_optimizer": True}


class TestExtending:
    def test_a_jump_of_the_learning_rate_is_reported(self, tmp_path: Path) -> None:
        tiny_run(tmp_path, {**BASE, "training.scheduler": WARMUP})
        content, output = resumed(tmp_path, tmp_path, {"training.scheduler": WARMUP})
        assert re.search(r"learning rate was 0\.0001 in the checkpoint and is 0\.00\d+ from here on", output)
        # The suggested setting has the described effect.
        command = re.search(
            r"training\.optimizer\.learning_rate=(\S+) training\.resume\.reset_scheduler=true\.", output
        )
        assert command is not None
        rate = float(command[1])
        changes = {"training.epochs": 5, "training.optimizer.learning_rate": rate, "training.scheduler": {"type": None}}
        origin = tmp_path / "checkpoints" / step_name(6)
        content, output = resumed(tmp_path / "kept", origin, changes, reset_scheduler=True)
        assert group_of(content)["lr"] == pytest.approx(1e-4)
        assert "the learning rate was" not in output

    def test_a_constant_learning_rate_is_not_reported(self, runs: Path, tmp_path: Path) -> None:
        _, output = resumed(tmp_path, runs / "none", {})
        assert "learning rate" not in output


class TestRefused:
    """None of them leaves a trace in the new folder, and the message names the remedy."""

    def refuse(self, origin: Path, folder: Path, changes: dict[str, Any], match: str) -> None:
        with pytest.raises(ValueError, match=match):
            resumed(folder / "b", origin, changes)
        assert not (folder / "b").exists()

    @pytest.mark.parametrize(
        ("origin", "changes", "match"),
        [
            ("none", {"training.optimizer.amsgrad": True}, r"amsgrad must be .*reset_optimizer=true"),
            ("none", {"training.scheduler": COSINE}, r"scheduler\.type must be .* null, got .*reset_scheduler=true"),
            ("plateau", {"training.scheduler": {**PLATEAU, "mode": "min"}}, r"scheduler\.mode .*reset_scheduler=true"),
            (
                "step",
                {"training.scheduler": {**STEP, "last_epoch": 3}},
                r"scheduler\.last_epoch .*reset_scheduler=true",
            ),
            ("none", {"model.diffusion.prediction": "v"}, r"model\.diffusion\.prediction must be .*\"epsilon\""),
        ],
    )
    def test_settings_that_do_not_match_the_state(
        self, runs: Path, tmp_path: Path, origin: str, changes: dict[str, Any], match: str
    ) -> None:
        schedule = {"training.scheduler": {"none": {"type": None}, "plateau": PLATEAU, "step": STEP}[origin]}
        self.refuse(runs / origin, tmp_path, {**schedule, **changes}, match)

    def test_custom_optimizer_with_an_unknown_option(self, tmp_path: Path) -> None:
        own = {"training.optimizer.type": f"{__name__}.KeepingDescent", "training.optimizer.nesterov_like": False}
        tiny_run(tmp_path / "a", {**BASE, **own})
        changes = {**own, "training.optimizer.nesterov_like": True}
        self.refuse(tmp_path / "a", tmp_path, changes, r"nesterov_like must be .* false, got true .*reset_optimizer")
        content, _ = resumed(tmp_path / "c", tmp_path / "a", {**own, "training.optimizer.learning_rate": 0.002})
        assert group_of(content)["lr"] == 0.002

    def test_custom_schedule_computed_from_the_previous_rate(self, tmp_path: Path) -> None:
        own = {"training.scheduler": {"type": f"{__name__}.Decay", "gamma": 0.9}}
        tiny_run(tmp_path / "a", {**BASE, **own})
        changes = {**own, "training.optimizer.learning_rate": 0.002}
        self.refuse(tmp_path / "a", tmp_path, changes, r"learning_rate must be .* 0\.01, got 0\.002 .*reset_scheduler")

    def test_another_order_in_the_middle_of_an_epoch(self, tmp_path: Path) -> None:
        changes = {**BASE, "data.loading.batch_size": 4, "training.epochs": 4}
        tiny_run(tmp_path / "a", {**changes, "training.checkpointing": CHECKPOINTING})
        ends = sorted((tmp_path / "a" / "checkpoints").glob("step_*.ckpt"))
        content = saved(ends[0])
        content["ImageDataModule"]["samples_seen"] = 8  # as a signal would have left it
        torch.save(content, tmp_path / "middle.ckpt")
        settings = {**changes, "data.loading.shuffle_train": False}
        self.refuse(
            tmp_path / "middle.ckpt", tmp_path, settings, r"shuffle_train must be .* true, got false: .* middle"
        )


class TestImages:
    def test_auto_that_measures_another_folder_is_refused_before_it_is_decoded(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name, mode, size in (("old", "L", 6), ("new", "RGB", 9)):
            (tmp_path / name).mkdir()
            for number in range(8):
                Image.new(mode, (size, size)).save(tmp_path / name / f"{number}.bmp")
        given = {"data.type": "image_folder", "data.paths.train": str(tmp_path / "old"), "data.cache": "none"}
        given |= {"model.conditioning.type": None, "model.conditioning.num_classes": None, "training.epochs": 1}
        given |= {"model.architecture.image_size": "auto", "model.architecture.in_channels": "auto"}
        tiny_run(tmp_path / "run", given)
        resume = resume_of(find_checkpoint(tmp_path / "run", "last"))
        resume["training.resume"]["allow_other_data"] = True
        monkeypatch.setattr(prepare, "create_datamodule", lambda *_: pytest.fail("decoded"))
        with pytest.raises(ValueError, match=r"image_size must be the checkpoint's value, 6, got 9 ") as caught:
            tiny_run(
                tmp_path / "on", given | resume | {"data.paths.train": str(tmp_path / "new"), "training.epochs": 2}
            )
        for key, number in (("image_size", 6), ("in_channels", 1)):
            assert f"set the checkpoint's value, model.architecture.{key}={number})" in str(caught.value)

    OWN = f"{__name__}."

    def test_other_images_are_refused_unless_allowed(self, runs: Path, tmp_path: Path) -> None:
        changes = {"data.type": f"{self.OWN}OtherImages"}
        with pytest.raises(ValueError, match=r"training images are not those .*allow_other_data=true .*data\.type was"):
            resumed(tmp_path / "b", runs / "none", changes)
        assert not (tmp_path / "b").exists()
        _, output = resumed(tmp_path / "c", runs / "none", changes, allow_other_data=True)
        assert "the training images are not those of the checkpoint" in output

    def test_another_split_is_other_images(self, runs: Path, tmp_path: Path) -> None:
        changes = {"data.validation_split": {"fraction": 0.5, "seed": 0}}
        with pytest.raises(ValueError, match=r"allow_other_data=true .*data\.validation_split\.fraction was 0\.25"):
            resumed(tmp_path, runs / "none", changes)

    def test_renamed_classes_are_refused_also_with_other_data(self, runs: Path, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"other classes .* low, middle, high, and the images also have medium"):
            resumed(tmp_path, runs / "none", {"data.type": f"{self.OWN}OtherNames"}, allow_other_data=True)

    def test_a_line_break_in_the_name_of_a_class_is_escaped(self, runs: Path, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="the images also have high") as refused:
            resumed(tmp_path, runs / "none", {"data.type": f"{self.OWN}NamesWithLineBreaks"}, allow_other_data=True)
        assert r"also have high\nError: disk full" in str(refused.value)
        assert "\n" not in str(refused.value)

    def test_the_same_classes_in_another_order_are_mapped_by_name(self, runs: Path, tmp_path: Path) -> None:
        """The weights equal those from the images in the old order, so every label is mapped correctly."""
        same, _ = resumed(tmp_path / "same", runs / "none", {})
        with pytest.warns(UserWarning, match="numbered by name, as in training.resume.checkpoint: 2 high, 0 low"):
            other, _ = resumed(tmp_path / "other", runs / "none", {"data.type": f"{self.OWN}OtherOrder"})
        for name, value in same["state_dict"].items():
            assert torch.equal(value, other["state_dict"][name]), name
        assert other["diffusion_lab"]["class_names"] == list(CLASSES)

    def test_images_of_fewer_classes_keep_their_numbers(self, runs: Path, tmp_path: Path) -> None:
        changes = {"data.type": f"{self.OWN}FewerClasses"}
        with pytest.warns(UserWarning, match="1 middle, 2 high"):
            content, _ = resumed(tmp_path, runs / "none", changes, allow_other_data=True)
        assert content["diffusion_lab"]["class_names"] == list(CLASSES)

    def test_fewer_images_in_the_middle_of_an_epoch(self, runs: Path, tmp_path: Path) -> None:
        content = saved(find_checkpoint(runs / "none", "last"))
        content["ImageDataModule"]["samples_seen"] = 6
        torch.save(content, tmp_path / "middle.ckpt")
        with pytest.raises(ValueError, match=r"must hold the 18 images of the checkpoint, got 9: .* middle of epoch"):
            resumed(tmp_path / "b", tmp_path / "middle.ckpt", {"data.count": 12}, allow_other_data=True)
        assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [("checkpoint", "auto"), ("checkpoint", "."), ("reset_optimizer", True), ("allow_other_data", True)],
)
def test_an_explicit_checkpoint_is_not_ignored(tmp_path: Path, key: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"training\.resume\.{key} = .*training\.resume\.enabled=true"):
        tiny_config(tmp_path, {f"training.resume.{key}": value})


def test_effects_are_all_in_use() -> None:
    assert set(RULES.values()) == set(Effect)
    assert all(key.partition(".")[0] in TrainConfig.model_fields for key in RULES)


def test_keys_that_earlier_versions_recorded_for_a_custom_network_are_no_difference(tmp_path: Path) -> None:
    """They passed the keys of the U-Net to every network, so that its class had to accept them."""
    size = {"image_size": 8, "in_channels": 1}
    own = {"model.architecture": {"type": f"{HERE}.NarrowNet", "model_channels": 8, **size}}
    old = {"channel_multipliers": [1, 2], "use_attention": [False, True], "head_channels": 32}
    config = tiny_config(tmp_path, own)
    settings = config.model_dump(mode="json")
    for keys, changed in ((old, []), (old | {"model_channels": 16}, ["model.architecture.model_channels"])):
        then = deepcopy(settings)
        then["model"]["architecture"] |= keys
        model = parse_section(ModelSettings, then["model"], "model")
        checkpoint = cast("Checkpoint", SimpleNamespace(model=model, config=then))
        assert [change.key for change in changes_from(checkpoint, config)] == changed
