"""The default tree is valid anywhere; that its images exist is checked when a run starts."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from diffusion_lab.__main__ import main
from diffusion_lab.config import get_default_config, validate_config, validate_config_consistency
from tests.commands.conftest import run_here

MISSING = 'data.paths.train = "data/train": must be an existing folder of images, flat or with one subfolder a class'


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def test_the_default_tree_is_valid() -> None:
    validate_config(get_default_config())
    validate_config_consistency(get_default_config())


def test_its_folders_may_be_links(tmp_path: Path) -> None:
    Path("outputs").mkdir()
    Path("outputs/logs").symlink_to(tmp_path)
    validate_config(get_default_config())


@pytest.mark.parametrize("more", [(), ("--validate",)])
def test_a_run_of_a_file_asks_for_the_images_first(
    tmp_path: Path, more: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "default.yaml"
    file.write_text(yaml.safe_dump(get_default_config()))
    with pytest.raises(SystemExit):
        main([str(file), "compute.device=cpu", *more])
    assert MISSING in capsys.readouterr().err
    assert list(Path.cwd().iterdir()) == []


def test_train_asks_for_the_images_first(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run_here("train", ["experiment=v2_default", "compute.device=cpu", "logger=none"])
    assert MISSING in capsys.readouterr().err
    assert list(Path.cwd().iterdir()) == []


def test_files_that_a_run_reads_must_exist_when_it_is_checked() -> None:
    resumed, generated = get_default_config(), get_default_config()
    resumed["training"]["resume"] |= {"enabled": True, "checkpoint": "no/such.ckpt"}
    generated["mode"], generated["generation"]["checkpoint"] = "generate", "no/such.ckpt"
    for tree, key in ((resumed, "training.resume.checkpoint"), (generated, "generation.checkpoint")):
        with pytest.raises(ValueError, match=rf'{key} = "no/such.ckpt": .*existing checkpoint'):
            validate_config(tree)
