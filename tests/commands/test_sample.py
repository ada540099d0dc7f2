"""`python sample.py`: images from a checkpoint."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from diffusion_lab.checkpoint import find_checkpoint
from tests.commands.conftest import ROOT, Refused, command, run_here, succeeds

pytestmark = pytest.mark.integration

QUICK = ("device=cpu", "sampler.steps=3", "num_samples=12")


def manifest(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]


def images(folder: Path) -> np.ndarray:
    return np.stack([np.asarray(Image.open(path)).astype(int) for path in sorted(folder.glob("sample_*.png"))])


def sampled(folder: Path, checkpoint: Path, *overrides: str) -> Path:
    """Sample in this process; return the folder of the images."""
    run_here("sample", [f"ckpt={checkpoint}", *QUICK, f"output.base_dir={folder}", *overrides])
    (file,) = folder.rglob("manifest.jsonl")
    return file.parent


def raw_weights(run: Path) -> dict[str, torch.Tensor]:
    state = torch.load(find_checkpoint(run, "last"), weights_only=True)["state_dict"]
    return {name.removeprefix("denoiser."): value for name, value in state.items() if name.startswith("denoiser.")}


@pytest.fixture(scope="module")
def unconditional(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """File with the weights of an unconditional model and no metadata."""
    from diffusion_lab import create_ddpm

    torch.manual_seed(0)
    model = create_ddpm(
        image_size=8,
        in_channels=1,
        model_channels=8,
        channel_multipliers=[1, 2],
        use_attention=[False, True],
        num_res_blocks=2,
        num_timesteps=20,
    )
    path = tmp_path_factory.mktemp("weights") / "weights.pt"
    torch.save(model.state_dict(), path)
    return path


PLAIN = (
    "model=unet_tiny",
    "diffusion=cosine",
    "conditioning=none",
    "model.architecture.model_channels=8",
    "model.architecture.num_res_blocks=2",
    "model.diffusion.num_timesteps=20",
)


@pytest.fixture(scope="module")
def from_folder(digits_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder that `python sample.py ckpt=RUN` writes."""
    top = tmp_path_factory.mktemp("sampled")
    done = succeeds(top, "sample.py", f"ckpt={digits_run}", *QUICK)
    (folder,) = (top / "outputs" / "generated").iterdir()
    assert "12 images in outputs/generated/" in done.stdout
    return folder


class TestProgram:
    def test_from_a_run_folder(self, from_folder: Path, digits_run: Path) -> None:
        assert sorted(path.name for path in from_folder.iterdir()) == [
            "grid.png",
            "manifest.jsonl",
            *(f"sample_{index:04d}.png" for index in range(12)),
        ]
        lines = manifest(from_folder)
        assert [line["class_name"] for line in lines] == [str(index % 10) for index in range(12)]
        best = digits_run / "checkpoints" / "best.ckpt"
        assert {line["checkpoint_sha256"] for line in lines} == {hashlib.sha256(best.read_bytes()).hexdigest()}
        assert {(line["sampler"], line["steps"], line["seed"], line["guidance_scale"]) for line in lines} == {
            ("ddim", 3, 0, 2.0)
        }

    def test_each_image_contains_its_settings(self, from_folder: Path) -> None:
        for line in manifest(from_folder):
            picture = Image.open(from_folder / line["file"])
            assert (picture.mode, picture.size) == ("L", (8, 8))
            assert json.loads(picture.text["diffusion_lab"]) == line  # type: ignore[attr-defined]

    def test_from_a_file_with_all_options(self, digits_run: Path, tmp_path: Path) -> None:
        last = find_checkpoint(digits_run, "last")
        chosen = ("sampler=ddpm", "labels=[3,'7']", "seed=3", "guidance_scale=1", "generation.output.save_npz=true")
        succeeds(tmp_path, "sample.py", f"ckpt={last}", *QUICK, *chosen, "generation.sampling.batch_size=5")
        (folder,) = (tmp_path / "outputs" / "generated").iterdir()
        lines = manifest(folder)
        assert [line["label"] for line in lines] == [3, 7] * 6
        named = f"{digits_run.name}/{last.resolve().name}"
        assert {(line["sampler"], line["seed"], line["checkpoint"]) for line in lines} == {("ddpm", 3, named)}
        with np.load(folder / "samples.npz") as arrays:
            assert arrays["arr_0"].dtype == np.uint8
            assert np.array_equal(arrays["arr_0"][..., 0], images(folder))
            assert arrays["arr_1"].tolist() == [3, 7] * 6


WATCHED = """
import runpy, sys
sys.argv = ["sample.py", *sys.argv[1:]]
runpy.run_path("sample.py", run_name="__main__")
unwanted = {"lightning", "pytorch_lightning", "torchmetrics", "wandb", "tensorboard", "torchvision", "sklearn", "scipy"}
print(sorted(unwanted & {name.partition(".")[0] for name in sys.modules}))
"""


def test_sampling_imports_nothing_of_training(digits_run: Path, tmp_path: Path) -> None:
    here = (f"output.base_dir={tmp_path}", f"ckpt={digits_run}", *QUICK)
    done = subprocess.run([sys.executable, "-c", WATCHED, *here], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.rglob("sample_*.png"))) == 12
    assert done.stdout.splitlines()[-1] == "[]"


def test_images_do_not_depend_on_the_batch_size(digits_run: Path, tmp_path: Path) -> None:
    images_by_size = [
        images(sampled(tmp_path / str(size), digits_run, f"generation.sampling.batch_size={size}", "num_samples=64"))
        for size in (1, 7, 64)
    ]
    assert images_by_size[0].shape == (64, 8, 8)
    assert np.abs(images_by_size[0] - images_by_size[2]).max() <= 1
    assert np.abs(images_by_size[1] - images_by_size[2]).max() <= 1
    assert np.abs(images_by_size[2][0] - images_by_size[2][10]).max() > 1  # same label, different image


def test_earlier_images_are_kept_unless_overwritten(digits_run: Path, tmp_path: Path, refused: Refused) -> None:
    here = ("output.subdirs.generated=mine", f"output.base_dir={tmp_path}")
    sampled(tmp_path, digits_run, *here)
    err = refused("sample", f"ckpt={digits_run}", *QUICK, *here, "seed=1")
    assert "holds generated images already" in err
    assert "compute.seed is 0 there and 1 here" in err
    sampled(tmp_path, digits_run, *here, "num_samples=2", "output.overwrite=true")
    assert len(images(tmp_path / "mine")) == 2


class TestPlainWeights:
    def test_with_the_architecture_from_the_settings(
        self, unconditional: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder = sampled(tmp_path, unconditional, *PLAIN, "guidance_scale=1")
        err = capsys.readouterr().err
        assert "holds no EMA weights" in err
        assert "guidance_scale" not in err
        assert images(folder).shape == (12, 8, 8)
        assert {line["label"] for line in manifest(folder)} == {None}

    def test_guidance_on_an_unconditional_model_warns(
        self, unconditional: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        sampled(tmp_path, unconditional, *PLAIN, "guidance_scale=3", "use_ema=false")
        assert "guidance_scale = 3 has no effect: the model is unconditional" in capsys.readouterr().err

    @pytest.mark.parametrize(("words", "warns"), [((), False), (("guidance_scale=2",), True)])
    def test_an_explicit_default_scale_warns(
        self, unconditional: Path, tmp_path: Path, words: tuple[str, ...], warns: bool
    ) -> None:
        overrides = (f"ckpt={unconditional}", *QUICK, *PLAIN, "use_ema=false", f"output.base_dir={tmp_path}", *words)
        err = succeeds(tmp_path, "sample.py", *overrides).stderr
        assert ("guidance_scale = 2 has no effect: the model is unconditional" in err) == warns

    def test_without_an_architecture(self, unconditional: Path, refused: Refused) -> None:
        err = refused("sample", f"ckpt={unconditional}", *QUICK)
        assert "holds weights but does not say of which architecture" in err

    def test_another_architecture(self, digits_run: Path, tmp_path: Path, refused: Refused) -> None:
        torch.save({"model_state_dict": raw_weights(digits_run)}, tmp_path / "weights.pt")
        err = refused("sample", "ckpt=weights.pt", *QUICK, *PLAIN, "use_ema=false")
        assert "weights.pt holds weights of another architecture" in err

    def test_labels_for_an_unconditional_model(self, unconditional: Path, refused: Refused) -> None:
        err = refused("sample", f"ckpt={unconditional}", *QUICK, *PLAIN, "labels=[3]", "use_ema=false")
        assert "generation.sampling.labels must be null for an unconditional model, got [3]" in err


class TestBadInput:
    def test_missing_checkpoint(self, refused: Refused) -> None:
        err = refused("sample", "ckpt=nowhere.ckpt")
        assert 'generation.checkpoint = "nowhere.ckpt": must be an existing checkpoint file or run folder' in err

    def test_folder_without_a_checkpoint(self, tmp_path: Path, refused: Refused) -> None:
        (tmp_path / "empty").mkdir()
        assert "holds no valid checkpoint" in refused("sample", "ckpt=empty", *QUICK)

    @pytest.mark.parametrize("content", [b"just a text\n", b"", b"PK\x03\x04 half an archive"])
    def test_file_that_is_not_a_checkpoint(self, tmp_path: Path, refused: Refused, content: bytes) -> None:
        (tmp_path / "notes.txt").write_bytes(content)
        assert "notes.txt is not a checkpoint" in refused("sample", "ckpt=notes.txt", *QUICK)

    @pytest.mark.parametrize("label", ["10", "eleven"])
    def test_label_outside_the_classes(self, digits_run: Path, refused: Refused, label: str) -> None:
        err = refused("sample", f"ckpt={digits_run}", *QUICK, f"labels=[3,{label}]")
        assert "generation.sampling.labels must be classes of the model, 0 to 9 (0, 1, 2" in err
        assert label in err

    def test_missing_gpu(self, digits_run: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        err = refused("sample", f"ckpt={digits_run}", *QUICK, "device=cuda")
        assert "compute.device must be a device of this machine" in err

    def test_more_steps_than_the_process_has(self, digits_run: Path, tmp_path: Path) -> None:
        done = command(tmp_path, "sample.py", f"ckpt={digits_run}", *QUICK, "sampler.steps=50")
        assert done.returncode == 2
        assert "sampler.steps must be at most model.diffusion.num_timesteps, 20, got 50" in done.stderr
