"""Checkpoints of the older program: sampling, loading in Python, and resuming."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from rich.console import Console

from diffusion_lab import EMA, DiffusionSampler, load_denoiser
from diffusion_lab.checkpoint import find_checkpoint
from diffusion_lab.checkpoint.files import step_name
from diffusion_lab.diffusion.parameterization import PredictNoise
from diffusion_lab.samplers import DDIMSampler
from tests.commands.conftest import run_here, succeeds
from tests.promised.older_program import MODEL
from tests.sameness import assert_equal
from tests.training.tiny import resume_of, saved, tiny_denoiser, tiny_run


def save_old(path: Path, layout: str = "shadow") -> EMA[Any]:
    """Train briefly in a custom loop, and save like the older program."""
    model = tiny_denoiser()
    ema = EMA(model, decay=0.9)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for step in range(3):
        images = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(step))
        loss = (model(images, model.schedule.level(0.5), torch.tensor([0, 1, 2, 0])) - images).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        ema.update()
    averages = {
        "own": ema.state_dict(),
        "model": ema.average.state_dict(),
        "shadow": {"decay": 0.9, "shadow": ema.average.state_dict(), "num_updates": 3},
        "flat": {**ema.average.state_dict(), "decay": 0.9, "num_updates": 3},
    }
    torch.save(
        {
            "epoch": 1,
            "model_state_dict": model.state_dict(),
            "ema_state_dict": averages[layout],
            "optimizer_state_dict": optimizer.state_dict(),
            "num_classes": 3,
            "loss": 0.5,
        },
        path,
    )
    return ema


@pytest.mark.parametrize("layout", ["own", "model", "shadow", "flat"])
def test_load_denoiser_reads_it_unchanged(tmp_path: Path, layout: str) -> None:
    ema = save_old(tmp_path / "old.pt", layout)
    denoiser = load_denoiser(tmp_path / "old.pt", use_ema=True, model=MODEL)
    assert denoiser.num_classes == 3
    images = DiffusionSampler(denoiser).sample(3, [0, 1, 2], seed=0)
    assert torch.equal(images, DiffusionSampler(ema.average).sample(3, [0, 1, 2], seed=0))


SETTINGS = [
    "model=unet_tiny",
    "diffusion=cosine",
    *(f"model.architecture.{key}={json.dumps(value)}" for key, value in MODEL["architecture"].items()),
    "model.diffusion.num_timesteps=20",
    *("sampler.steps=2", "num_samples=3", "device=cpu"),
]


@pytest.fixture
def sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that runs `python sample.py …` in this process and returns the lines of the manifest."""
    monkeypatch.chdir(tmp_path)

    def run(*more: str) -> list[dict[str, Any]]:
        run_here("sample", ["ckpt=old.pt", *SETTINGS, "output.base_dir=out", *more])
        (manifest,) = tmp_path.glob("out/generated/*/manifest.jsonl")
        return [json.loads(line) for line in manifest.read_text().splitlines()]

    return run


@pytest.mark.parametrize("conditioning", [(), ("conditioning=class",), ("conditioning=none",)], ids=str)
def test_sample_reads_the_classes_from_the_file(tmp_path: Path, sample: Any, conditioning: tuple[str, ...]) -> None:
    save_old(tmp_path / "old.pt")
    lines = sample(*conditioning)
    assert [line["label"] for line in lines] == [0, 1, 2]
    assert {(line["use_ema"], line["ema_decay"]) for line in lines} == {(True, 0.9)}


def test_the_error_about_a_broken_average_names_a_remedy_that_works(
    tmp_path: Path, sample: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    save_old(tmp_path / "old.pt")
    torch.save({**saved(tmp_path / "old.pt"), "ema_state_dict": {"shadow": {"other": torch.zeros(1)}}}, "old.pt")
    with pytest.raises(SystemExit):
        sample()
    printed = capsys.readouterr().err
    assert "old.pt cannot be sampled with averaged weights: its ema_state_dict does not belong" in printed
    assert "use_ema=false for sample.py" in printed
    assert {line["use_ema"] for line in sample("use_ema=false")} == {False}


def test_each_contradiction_has_its_own_message(
    tmp_path: Path, sample: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    save_old(tmp_path / "old.pt")
    content = saved(tmp_path / "old.pt")
    without = {key: value for key, value in content.items() if key != "num_classes"}
    typed = ("conditioning=class", "model.conditioning.num_classes=5")
    messages = []
    for file, settings in (({**content, "num_classes": 4}, ()), (content, typed), (without, typed)):
        torch.save(file, "old.pt")
        with pytest.raises(SystemExit):
            sample(*settings)
        messages.append(capsys.readouterr().err)
    assert "old.pt contradicts itself: its num_classes is 4, and its weights are those of a model of 3" in messages[0]
    assert "num_classes must be 3, or left out: by its num_classes, 3, old.pt is of a model of 3 classes" in messages[1]
    assert "num_classes must be 3, or left out: the weights in old.pt are of a model of 3 classes" in messages[2]


class TestPrediction:
    """The network of a file without a prediction type predicts the noise, unless the user sets another one."""

    @pytest.fixture
    def old(self, tmp_path: Path) -> Path:
        save_old(tmp_path / "old.pt")
        return tmp_path / "old.pt"

    def drawn(self, folder: Path, *more: str) -> tuple[list[np.ndarray[Any, Any]], str]:
        """Return the images of `sample.py` and its output."""
        words = ("ckpt=old.pt", *SETTINGS, "guidance_scale=0", f"output.base_dir=out{len(more)}", *more)
        done = succeeds(folder, "sample.py", *words)
        return pixels(folder / f"out{len(more)}"), done.stderr

    def test_all_ways_assume_epsilon(self, tmp_path: Path, old: Path) -> None:
        by_sample, printed = self.drawn(tmp_path)
        assert (
            "old.pt does not say what its network predicts: epsilon is taken; model.diffusion.prediction=v" in printed
        )
        assert "predicts epsilon" in printed
        settings = {
            "mode": "generate",
            "model": MODEL,
            "compute": {"device": "cpu", "seed": 0},
            "generation": {"checkpoint": "old.pt", "sampling": {"num_samples": 3, "guidance_scale": 0}},
            "sampler": {"type": "ddim", "steps": 2},
            "output": {"base_dir": "file"},
        }
        (tmp_path / "gen.yaml").write_text(json.dumps(settings))
        assert "epsilon is taken" in succeeds(tmp_path, "-m", "diffusion_lab", "gen.yaml").stderr
        denoiser = load_denoiser(old, model=MODEL)
        images = DiffusionSampler(denoiser).sample(3, [0, 1, 2], seed=0, sampler=DDIMSampler(steps=2))
        in_python = ((images[:, 0] + 1) * 127.5).clamp(0, 255).numpy()
        for other in (pixels(tmp_path / "file"), list(in_python)):
            assert max(np.abs(np.subtract(*pair)).max() for pair in zip(by_sample, other, strict=True)) <= 1

    def test_an_explicit_prediction_is_used_without_a_warning(self, tmp_path: Path, old: Path) -> None:
        by_default, _ = self.drawn(tmp_path)
        typed, printed = self.drawn(tmp_path, "model.diffusion.prediction=v")
        assert "does not say" not in printed
        assert "predicts v" in printed
        assert max(np.abs(np.subtract(*pair)).max() for pair in zip(by_default, typed, strict=True)) > 1

    def test_train_resumes_with_epsilon_and_later_with_the_saved_prediction(self, tmp_path: Path, old: Path) -> None:
        run = (
            *(word for word in SETTINGS if not word.startswith(("num_samples", "device"))),
            *("model.conditioning.num_classes=3", "compute.device=cpu", "logger=none", "data=image_folder"),
            *("training.epochs=2", "training.visualization.enabled=false", "data.paths.train=images"),
            *("conditioning=class", "training.resume.enabled=true", "training.resume.checkpoint=old.pt"),
            "data.loading.num_workers=0",
        )
        for name in ("a", "b", "c"):
            (tmp_path / "images" / name).mkdir(parents=True)
            for value in (40, 90, 200):
                Image.new("L", (8, 8), value).save(tmp_path / "images" / name / f"{value}.png")
        done = succeeds(tmp_path, "train.py", *run, "output.base_dir=run")
        assert "old.pt does not say what its network predicts: epsilon is taken" in done.stdout + done.stderr
        settings = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
        assert settings["model"]["diffusion"]["prediction"] == "epsilon"
        assert isinstance(load_denoiser(tmp_path / "run").parameterization, PredictNoise)
        further = (*run[: run.index("training.resume.checkpoint=old.pt")], "training.resume.checkpoint=auto")
        further = (*further, "data.loading.num_workers=0", "training.epochs=3")
        done = succeeds(tmp_path, "train.py", *further, "output.base_dir=run")
        assert "model.diffusion.prediction is epsilon, as in run/checkpoints/" in done.stdout + done.stderr
        settings = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
        assert settings["model"]["diffusion"]["prediction"] == "epsilon"
        assert isinstance(load_denoiser(tmp_path / "run").parameterization, PredictNoise)


def pixels(base: Path) -> list[np.ndarray[Any, Any]]:
    """Return the images in the generated folder of a base folder, in order."""
    files = sorted(file for file in base.glob("generated/**/*.png") if file.name != "grid.png")
    return [np.asarray(Image.open(file), dtype=float) for file in files]


CHANGES: dict[str, Any] = {
    "training.ema.decay": 0.9,
    "training.scheduler": {"type": "cosine", "T_max": "auto", "eta_min": 0.0},
    "training.epochs": 4,
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Uninterrupted run of four epochs."""
    folder = tmp_path_factory.mktemp("whole")
    tiny_run(folder, CHANGES)
    return folder


class TestResuming:
    """Resuming, with the settings of tests/training/tiny.py."""

    @pytest.fixture
    def old(self, whole: Path, tmp_path: Path) -> Callable[..., Path]:
        """Return a function that saves what the older program would have saved after two of the four epochs."""
        content = saved(whole / "checkpoints" / step_name(6))
        state = content["state_dict"]
        parts = {
            "model_state_dict": under("denoiser.", state),
            "ema_state_dict": under("ema.", state),
            "optimizer_state_dict": content["optimizer_states"][0],
            "num_classes": 3,
            "epoch": 2,
        }

        def save(**changed: Any) -> Path:
            torch.save(parts | changed, tmp_path / "old.pt")
            return tmp_path / "old.pt"

        return save

    def resumed(self, path: Path, **changes: Any) -> tuple[dict[str, Any], str]:
        """Return the last checkpoint and the output of a run that resumes from a file."""
        printed = io.StringIO()
        folder = path.parent / "resumed"
        tiny_run(folder, {**CHANGES, **resume_of(path), **changes}, Console(file=printed, width=10_000))
        return saved(find_checkpoint(folder, "last")), printed.getvalue()

    def test_it_continues_like_an_uninterrupted_run(self, whole: Path, old: Any) -> None:
        """Weights, optimizer, schedule, averages and the order of images are those of the uninterrupted run."""
        found, printed = self.resumed(old())
        expected = saved(find_checkpoint(whole, "last"))
        for part in ("state_dict", "optimizer_states", "lr_schedulers"):
            assert_equal(found[part], expected[part], part)
        assert found["global_step"] == 12
        assert found["diffusion_lab"]["epochs_done"] == 4
        assert "epoch: 2 in the file is taken as the number of epochs that are done" in printed
        assert "continues with epoch 3" in printed
        assert "averaged weights: taken over (updates so far: 6)" in printed
        assert "optimizer: its state is taken over" in printed
        assert "not taken over" not in printed

    def test_later_resumes_are_from_its_own_checkpoints(self, whole: Path, old: Any, tmp_path: Path) -> None:
        self.resumed(old(), **{"training.epochs": 3, "training.scheduler": {"type": None}})
        resume = {**resume_of(tmp_path)["training.resume"], "checkpoint": "auto", "reset_scheduler": True}
        tiny_run(tmp_path / "resumed", {**CHANGES, "training.resume": resume})
        found = saved(find_checkpoint(tmp_path / "resumed", "last"))
        assert found["global_step"] == 12
        assert found["state_dict"]["ema.updates"] == 12

    @pytest.mark.parametrize(
        ("changed", "printed"),
        [
            (
                {"optimizer_state_dict": None},
                "optimizer: not taken over, the file holds no state of it; it starts fresh",
            ),
            ({"optimizer_state_dict": "x"}, "optimizer: not taken over, its content is not a state dict"),
            ({"ema_state_dict": None}, "averaged weights: the file holds none; the averages begin with the weights"),
            ({"ema_state_dict": {"a": "b"}}, "averaged weights: not taken over, ema_state_dict holds something"),
            ({"epoch": "two"}, "epoch: not taken over, the file has an epoch that is not a number of epochs"),
            ({"epoch": None}, "epoch: not taken over, the file holds no epoch; training begins with epoch 1"),
            ({"scaler": {}, "loss": 1.0}, "not taken over, since it is not read: scaler, loss"),
        ],
        ids=str,
    )
    def test_parts_that_cannot_be_taken_over_are_reported(
        self, old: Any, changed: dict[str, Any], printed: str
    ) -> None:
        found, words = self.resumed(old(**changed))
        assert printed in words
        assert found["diffusion_lab"]["epochs_done"] == 4
        assert found["global_step"] == 12

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"num_classes": 5}, "contradicts itself: its num_classes is 5, and its weights are those of a model of 3"),
            ({"model_state_dict": {"a": torch.zeros(1)}, "num_classes": 3}, "contradicts itself"),
        ],
    )
    def test_contradictions_are_refused(self, tmp_path: Path, old: Any, changed: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=rf"cannot resume from .*old\.pt:\n.*{message}"):
            self.resumed(old(**changed))
        assert not (tmp_path / "resumed").exists()

    def test_settings_of_other_classes_are_refused(self, old: Any) -> None:
        none = {"model.conditioning.type": None, "model.conditioning.num_classes": None}
        with pytest.raises(ValueError, match=r"model\.conditioning\.type must be class \(conditioning=class\)"):
            self.resumed(old(), **none)

    def test_a_file_with_all_epochs_done_is_complete(self, tmp_path: Path, old: Any) -> None:
        printed = io.StringIO()
        changes = {**CHANGES, "training.epochs": 2, **resume_of(old())}
        assert tiny_run(tmp_path / "resumed", changes, Console(file=printed, width=10_000)) is None
        assert "already complete" in printed.getvalue()

    @pytest.mark.parametrize("key", [None, "state_dict"])
    def test_weights_are_resumed_once_they_are_saved_as_the_error_says(
        self, old: Any, tmp_path: Path, key: str | None
    ) -> None:
        weights = saved(old())["model_state_dict"]
        torch.save(weights if key is None else {key: weights}, tmp_path / "weights.pt")
        with pytest.raises(ValueError, match=r"must be a file written by train\.py.*not weights alone") as refused:
            self.resumed(tmp_path / "weights.pt")
        exec(str(refused.value).partition("in Python: ")[2], {"torch": torch})
        _, printed = self.resumed(tmp_path / "weights_dict.pt")
        assert "training begins with epoch 1" in printed

    def test_numbers_of_numpy_are_numbers(self, old: Any) -> None:
        found, printed = self.resumed(old(epoch=np.int64(2), loss=np.float64(0.5), losses=np.arange(3.0)))
        assert "epoch: 2 in the file is taken" in printed
        assert "not read: loss, losses" in printed
        assert found["global_step"] == 12


def under(prefix: str, state: dict[str, Any]) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
