"""`python train.py`: files of a run, sweeps, and custom images."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from diffusion_lab.config.schema import TrainConfig
from diffusion_lab.config.validate import parse_as
from tests.commands.conftest import SMALL, Refused, command, run_here, succeeds

pytestmark = pytest.mark.integration

RNG = np.random.default_rng(0)


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


class TestDefaultRun:
    def test_folder_is_named_by_experiment_and_time(self, digits_run: Path) -> None:
        assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d-[0-9a-f]{6}", digits_run.name)
        top = digits_run.parents[2]
        assert [path.name for path in top.iterdir()] == ["outputs"]  # Hydra and Lightning write nothing else

    def test_contains_its_metadata(self, digits_run: Path) -> None:
        assert sorted(path.name for path in digits_run.iterdir()) == [
            "checkpoints",
            "config.yaml",
            "environment.json",
            "logs",
            "samples",
            "status.json",
            "summary.json",
        ]
        config = parse_as(TrainConfig, yaml.safe_load((digits_run / "config.yaml").read_text()), [])
        assert (config.experiment, config.training.epochs, config.compute.seed) == ("digits", 2, 0)
        environment = json.loads((digits_run / "environment.json").read_text())
        assert environment["packages"]["torch"]
        assert environment["command"][1:] == list(SMALL)
        assert json.loads((digits_run / "status.json").read_text())["state"] == "finished"

    def test_logs_checkpoints_and_samples(self, digits_run: Path) -> None:
        best, first, last = sorted(path.name for path in (digits_run / "checkpoints").glob("*.ckpt"))
        assert best == "best.ckpt"
        assert first < last
        metrics = lines(digits_run / "logs" / "metrics.jsonl")
        steps = json.loads((digits_run / "summary.json").read_text())["steps"]
        assert [line["step"] for line in metrics if "val/loss" in line] == [steps // 2 - 1, steps - 1]
        assert (digits_run / "logs" / "run.log").is_file()
        with Image.open(digits_run / "samples" / "epoch_0002.png") as picture:
            assert picture.height > 10 * 48  # ten rows, one per digit

    def test_summary(self, digits_run: Path) -> None:
        summary = json.loads((digits_run / "summary.json").read_text())
        assert summary["epochs"] == 2
        assert summary["steps"] > 2
        assert 1000 < summary["train_images"] < 1797
        assert summary["images_per_second"] > 0
        assert summary["peak_memory_mb"] > 50
        assert Path(summary["best_checkpoint"]).name == "best.ckpt"

    def test_existing_run_is_refused(self, digits_run: Path, refused: Refused) -> None:
        before = {path: path.stat().st_mtime_ns for path in digits_run.rglob("*")}
        err = refused("train", *SMALL, f"output.base_dir={digits_run}")
        assert f"output.base_dir holds a run already (finished), got '{digits_run}'" in err
        assert {path: path.stat().st_mtime_ns for path in digits_run.rglob("*")} == before


def test_sweep_gives_each_job_its_folder(tmp_path: Path) -> None:
    quick = ("training.epochs=1", "callbacks=quiet")
    succeeds(tmp_path, "train.py", "-m", *SMALL, *quick, "optimizer=adam,adamw")
    (sweep,) = (tmp_path / "outputs" / "sweeps").iterdir()
    jobs = sorted(path for path in sweep.iterdir() if path.is_dir())
    assert len(jobs) == 2
    types = [yaml.safe_load((job / "config.yaml").read_text())["training"]["optimizer"]["type"] for job in jobs]
    assert types == ["adam", "adamw"]
    assert all(json.loads((job / "status.json").read_text())["state"] == "finished" for job in jobs)
    assert all(len(lines(job / "logs" / "metrics.jsonl")) >= 1 for job in jobs)


@pytest.mark.slow
def test_four_runs(tmp_path: Path) -> None:
    succeeds(
        tmp_path,
        "train.py",
        "-m",
        "optimizer=adam,adamw",
        "diffusion=linear,cosine",
        "training.epochs=2",
        "logger=none",
    )
    (sweep,) = (tmp_path / "outputs" / "sweeps").iterdir()
    jobs = sorted(path for path in sweep.iterdir() if path.is_dir())
    pairs = set()
    for job in jobs:
        config = yaml.safe_load((job / "config.yaml").read_text())
        pairs.add((config["training"]["optimizer"]["type"], config["model"]["diffusion"]["beta_schedule"]))
        assert json.loads((job / "status.json").read_text())["state"] == "finished"
    assert len(jobs) == 4
    assert pairs == {(optimizer, schedule) for optimizer in ("adam", "adamw") for schedule in ("linear", "cosine")}


def noise(width: int, height: int, channels: int) -> np.ndarray:
    shape = (height, width) if channels == 1 else (height, width, channels)
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def write_every_kind(folder: Path) -> int:
    """Save one image of each common kind; return their number."""
    folder.mkdir(parents=True)
    colour = Image.fromarray(noise(20, 13, 3))
    for suffix in ("png", "jpg", "webp", "bmp", "tiff", "JPEG"):
        colour.save(folder / f"colour.{suffix}")
    frames = [Image.fromarray(noise(16, 16, 3)).quantize(32) for _ in range(3)]
    frames[0].save(folder / "animated.gif", save_all=True, append_images=frames[1:])
    Image.fromarray(noise(9, 40, 1)).save(folder / "gray.png")
    colour.quantize(16).save(folder / "palette.png")
    Image.fromarray(noise(31, 31, 4)).save(folder / "transparent.png")
    Image.fromarray(noise(17, 23, 1).astype(np.uint16) * 257).save(folder / "sixteen_bit.png")
    Image.fromarray(noise(1, 1, 3)).save(folder / "dot.png")
    Image.fromarray(noise(301, 7, 3)).save(folder / "strip.png")
    return len(list(folder.iterdir()))


OWN = (
    *SMALL,
    "data=image_folder",
    "model.architecture.image_size=8",
    "model.architecture.in_channels=3",
    "data.loading.num_workers=0",
    "data.loading.batch_size=8",
)


class TestOwnImages:
    def test_every_kind_in_class_folders(self, tmp_path: Path) -> None:
        count = sum(write_every_kind(tmp_path / "pictures" / name) for name in ("ducks", "cats"))
        succeeds(
            tmp_path,
            "train.py",
            *OWN,
            "data.paths.train=pictures",
            "conditioning=class",
            "output.base_dir=run",
        )
        resolved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
        assert resolved["model"]["conditioning"]["num_classes"] == 2
        summary = json.loads((tmp_path / "run" / "summary.json").read_text())
        assert summary["train_images"] == count - 2  # one of each class is held out for validation
        assert summary["metric"] == "val/loss"
        assert summary["best_value"] > 0
        run_here(
            "sample",
            [
                f"ckpt={tmp_path / 'run'}",
                "num_samples=3",
                "sampler.steps=2",
                "device=cpu",
                f"output.base_dir={tmp_path}",
            ],
        )
        (manifest,) = tmp_path.rglob("manifest.jsonl")
        assert [line["class_name"] for line in lines(manifest)] == ["cats", "ducks", "cats"]

    def test_every_kind_in_one_folder(self, tmp_path: Path) -> None:
        count = write_every_kind(tmp_path / "pictures")
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # none is skipped
            run_here(
                "train", [*OWN, f"data.paths.train={tmp_path / 'pictures'}", f"output.base_dir={tmp_path / 'run'}"]
            )
        summary = json.loads((tmp_path / "run" / "summary.json").read_text())
        assert summary["train_images"] == count - 1


class TestBadInput:
    @pytest.fixture
    def pictures(self, tmp_path: Path) -> Path:
        """Folder of two classes, with one corrupt image in the first."""
        for name in ("cats", "ducks"):
            (tmp_path / "pictures" / name).mkdir(parents=True)
            for number in range(4):
                Image.fromarray(noise(8, 8, 3)).save(tmp_path / "pictures" / name / f"{number}.png")
        whole = (tmp_path / "pictures" / "cats" / "0.png").read_bytes()
        (tmp_path / "pictures" / "cats" / "broken.png").write_bytes(whole[: len(whole) // 2])
        return tmp_path / "pictures"

    def test_missing_folder(self, tmp_path: Path, refused: Refused) -> None:
        err = refused("train", *OWN, "data.paths.train=nowhere")
        assert 'data.paths.train = "nowhere": must be an existing folder' in err

    @pytest.mark.parametrize(("name", "contents"), [(None, "no files"), ("notes.txt", r"\.txt")])
    def test_folder_without_images(self, tmp_path: Path, refused: Refused, name: str | None, contents: str) -> None:
        (tmp_path / "pictures").mkdir()
        if name:
            (tmp_path / "pictures" / name).write_text("no picture")
        err = refused("train", *OWN, "data.paths.train=pictures")
        assert "data.paths.train holds no images: 'pictures' has" in err
        assert re.search(contents, err)

    def test_validation_class_that_training_lacks(self, tmp_path: Path, pictures: Path, refused: Refused) -> None:
        (tmp_path / "val" / "dogs").mkdir(parents=True)
        Image.fromarray(noise(8, 8, 3)).save(tmp_path / "val" / "dogs" / "0.png")
        err = refused("train", *OWN, f"data.paths.train={pictures}", "data.paths.val=val")
        assert "data.paths.val must hold only classes that data.paths.train has (cats, ducks)" in err
        assert "got the folder(s) dogs" in err

    def test_corrupt_image_as_an_error(self, pictures: Path, refused: Refused) -> None:
        err = refused("train", *OWN, f"data.paths.train={pictures}", "data.on_corrupt=error")
        assert "data.paths.train: 1 corrupt image(s), and data.on_corrupt = error" in err
        assert "broken.png" in err

    def test_corrupt_image_that_is_skipped(
        self, tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        overrides = [*OWN, f"data.paths.train={pictures}", f"output.base_dir={tmp_path / 'run'}", "training.epochs=1"]
        run_here("train", overrides)
        assert re.search(r"1 corrupt image\(s\) skipped:\n.*broken\.png", capsys.readouterr().err)
        summary = json.loads((tmp_path / "run" / "summary.json").read_text())
        assert (summary["train_images"], summary["left_out"]) == (6, {"damaged": 1})
        log = (tmp_path / "run" / "logs" / "run.log").read_text()
        assert re.search(r"image skipped \(damaged\): .*broken\.png: ", log)
        assert "2 class folders (cats, ducks), and training is unconditional" in log

    def test_num_classes_that_differs_from_the_data(self, pictures: Path, refused: Refused) -> None:
        overrides = ("conditioning=class", "model.conditioning.num_classes=3")
        err = refused("train", *OWN, f"data.paths.train={pictures}", *overrides)
        assert "model.conditioning.num_classes must be the number of classes of the data, 2 (cats, ducks), got 3" in err

    def test_a_flat_folder_for_a_conditional_model(self, pictures: Path, refused: Refused) -> None:
        overrides = ("conditioning=class", f"data.paths.train={pictures / 'cats'}")
        err = refused("train", *OWN, *overrides)
        assert f"needs images with classes, and data.paths.train {str(pictures / 'cats')!r} has none" in err
        assert "conditioning=none" in err

    def test_image_size_that_is_not_divisible(self, refused: Refused) -> None:
        err = refused("train", *SMALL, "model.architecture.image_size=9")
        assert "model.architecture.image_size = 9: must be divisible by 2" in err

    def test_missing_gpu(self, refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
        import torch

        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        err = refused("train", *SMALL, "compute.device=cuda")
        assert "compute.device must be a device of this machine (cpu" in err
        assert "got 'cuda'" in err

    def test_missing_checkpoint_to_resume(self, refused: Refused) -> None:
        resume = ("training.resume.enabled=true", "training.resume.checkpoint=nowhere.ckpt")
        err = refused("train", *SMALL, *resume)
        assert 'training.resume.checkpoint = "nowhere.ckpt": with training.resume.enabled must be an existing' in err

    def test_invalid_checkpoint_to_resume(self, tmp_path: Path, refused: Refused) -> None:
        (tmp_path / "notes.ckpt").write_text("no checkpoint")
        err = refused("train", *SMALL, "training.resume.enabled=true", "training.resume.checkpoint=notes.ckpt")
        assert "notes.ckpt is not a checkpoint" in err

    def test_checkpoint_to_resume_of_another_architecture(self, digits_run: Path, refused: Refused) -> None:
        resume = ("training.resume.enabled=true", f"training.resume.checkpoint={digits_run}")
        err = refused("train", *SMALL, *resume, "model.architecture.model_channels=16", "training.epochs=3")
        assert "holds weights of another architecture" in err

    def test_folder_that_cannot_be_created(self, tmp_path: Path, refused: Refused) -> None:
        (tmp_path / "file").write_text("in the way")
        err = refused("train", *SMALL, f"output.base_dir={tmp_path / 'file' / 'run'}")
        assert "output.base_dir must be a writable folder" in err

    def test_the_program_exits_with_the_message(self, tmp_path: Path, pictures: Path) -> None:
        """The real program has the exit code and standard error, and leaves no files."""
        done = command(tmp_path, "train.py", *OWN, f"data.paths.train={pictures}", "data.on_corrupt=error")
        assert done.returncode == 2
        assert "Error: data.paths.train: 1 corrupt image(s)" in done.stderr
        assert "Traceback" not in done.stderr
        assert [path.name for path in tmp_path.iterdir()] == ["pictures"]
