"""Options of Hydra in the real programs: run folder, custom packages, TAB completion."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from tests.commands.conftest import SMALL, command, succeeds

FAST = (*SMALL, "training.epochs=1", "training.visualization.enabled=false")


class TestRunDir:
    """``hydra.run.dir`` of a single run."""

    def test_names_the_run_folder(self, tmp_path: Path) -> None:
        succeeds(tmp_path, "train.py", *FAST, "hydra.run.dir=mine/${name}")
        assert json.loads((tmp_path / "mine/digits/status.json").read_text())["state"] == "finished"
        assert [path.name for path in tmp_path.iterdir()] == ["mine"]

    def test_names_the_folder_of_images(self, digits_run: Path, tmp_path: Path) -> None:
        words = (f"ckpt={digits_run}", "num_samples=10", "device=cpu", "hydra.run.dir=mine")
        succeeds(tmp_path, "sample.py", *words)
        assert len(list((tmp_path / "mine/generated").rglob("sample_*.png"))) == 10

    @pytest.mark.parametrize(
        ("overrides", "why"),
        [
            (
                ("hydra.run.dir=a", "output.base_dir=b"),
                'hydra.run.dir = "a": cannot be set together with output.base_dir',
            ),
            (("hydra.run.dir=a", "hydra.job.chdir=true"), "hydra.job.chdir = true: must be false"),
            (("hydra.run.dir=a", "training.epochs=0"), "training.epochs = 0: must be at least 1 [command line]"),
            (("-m", "hydra.run.dir=a", "compute.seed=0,1"), "set the folder of a sweep with hydra.sweep.dir"),
            (("hydra.sweep.dir=a",), "hydra.sweep.dir=a only has an effect in a sweep: add -m for a sweep"),
        ],
    )
    def test_invalid_combinations_are_refused_without_a_trace(
        self, tmp_path: Path, overrides: tuple[str, ...], why: str
    ) -> None:
        here = tmp_path / "here"
        here.mkdir()
        done = command(here, "train.py", *overrides)
        assert done.returncode == 2
        assert why in done.stderr
        assert not list(here.iterdir())


PLAIN = """# @package training.optimizer
type: my_lab.optim.Plain
learning_rate: 1.0e-3
weight_decay: 0.0
betas: [0.9, 0.999]
gradient_clip_norm: null
"""


@pytest.mark.parametrize("mode", [(), ("-m",)])
def test_a_package_next_to_the_config_dir_is_found(tmp_path: Path, mode: tuple[str, ...]) -> None:
    lab, here = tmp_path / "lab", tmp_path / "here"
    for folder in (lab / "conf/optimizer", lab / "my_lab", here):
        folder.mkdir(parents=True)
    (lab / "conf/optimizer/plain.yaml").write_text(PLAIN)
    (lab / "my_lab/optim.py").write_text("from torch.optim import AdamW\n\n\nclass Plain(AdamW):\n    pass\n")
    succeeds(here, "train.py", *mode, "--config-dir", str(lab / "conf"), "optimizer=plain", *FAST)
    (settings,) = here.rglob("config.yaml")
    assert "my_lab.optim.Plain" in settings.read_text()


def test_error_about_a_missing_package_lists_the_searched_folders(tmp_path: Path) -> None:
    done = command(tmp_path, "train.py", "training.optimizer.type=my_lab.optim.Plain")
    assert done.returncode == 2
    assert "searched next to train.py, in the current folder, and next to --config-dir" in done.stderr


@pytest.mark.parametrize(
    "program", [("train.py",), ("-m", "diffusion_lab", "tests/fixtures/configs/diffusion_minimal.yaml")]
)
def test_error_about_an_argument_that_needs_quotes_shows_them(tmp_path: Path, program: tuple[str, ...]) -> None:
    file = [str(Path(__file__).parents[2] / word) if word.endswith(".yaml") else word for word in program]
    done = command(tmp_path, *file, "output.base_dir=größe (1)")
    assert done.returncode == 2
    assert """type 'output.base_dir="größe (1)"'""" in done.stderr
    assert "hydra.cc" not in done.stderr


def test_only_bash_is_completed(tmp_path: Path) -> None:
    assert "_diffusion_lab_complete python" in succeeds(tmp_path, "train.py", "-sc", "install=bash").stdout
    assert "install=bash or uninstall=bash" in command(tmp_path, "train.py", "-sc", "install=zsh").stderr


class TestWarnings:
    """Warnings are a sentence after ``Warning:``, without category and source line, in all programs."""

    def test_of_training(self, image_folder: Path, tmp_path: Path) -> None:
        (image_folder / "rose" / "broken.png").write_bytes(b"no picture")
        here = (f"data.paths.train={image_folder}", "model.architecture.image_size=8")
        small = ("model.architecture.in_channels=1", "conditioning=none", "data.loading.num_workers=1")
        done = succeeds(tmp_path, "train.py", "experiment=fast_debug", "data=image_folder", *here, *small)
        assert re.search(r"^Warning: .*corrupt", done.stderr, re.MULTILINE)
        self.check(done.stderr)

    def test_of_the_other_programs(self, digits_run: Path, tmp_path: Path) -> None:
        run = tmp_path / "run"
        shutil.copytree(digits_run, run, symlinks=True)
        best = (run / "checkpoints/best.ckpt").resolve()
        best.write_bytes(best.read_bytes()[:-1])
        for program in (
            ("sample.py", f"ckpt={run}", "num_samples=10"),
            ("-m", "diffusion_lab.checkpoint", "inspect", str(run)),
        ):
            err = command(tmp_path, *program).stderr
            assert "an earlier checkpoint is used instead.\n" in err or "Error: " in err
            self.check(err)

    @staticmethod
    def check(err: str) -> None:
        assert "Warning: " in err
        assert not re.search(r"\w+Warning\b|warnings\.warn|py\.warnings|^\s+\w+\(", err, re.MULTILINE)
