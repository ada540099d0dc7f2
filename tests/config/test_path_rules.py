"""A run writes only inside its folder."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from diffusion_lab.cli.compose import new_name, run_folder
from diffusion_lab.config import ConfigError, TrainConfig, resolve_output_path, validate_config
from diffusion_lab.config.validate import parse_as, parse_config
from diffusion_lab.generation.open_folder import TIME_STAMP
from diffusion_lab.training.fit import train
from diffusion_lab.typed_settings.section import home_expanded
from diffusion_lab.typed_settings.settings_reader import path_keys
from tests.config.conftest import Change

INSIDE = "must be a relative folder name that stays inside output.base_dir"


@pytest.mark.parametrize("name", ["../../x", "/tmp/x", "a/../../x", ".", "~/x", "logs\0x"])
def test_a_name_that_leaves_the_folder_is_refused(changed: Change, name: str) -> None:
    with pytest.raises(ConfigError, match=INSIDE):
        validate_config(changed({"output.subdirs.logs": name}))


def test_a_link_that_leaves_the_folder_is_refused(changed: Change, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run" / "logs").symlink_to("../elsewhere")
    given = {"output.base_dir": str(tmp_path / "run"), "data.paths.train": str(tmp_path / "elsewhere")}
    validate_config(changed(given))  # the same on any machine
    with pytest.raises(
        ConfigError, match=r'output\.subdirs\.logs = "logs": must stay inside .*is a link to .*elsewhere'
    ):
        parse_as(TrainConfig, changed(given), starts=True)
    with pytest.raises(ConfigError, match=r"output\.subdirs\.logs = \"logs/deeper\": must stay inside"):
        parse_as(TrainConfig, changed({**given, "output.subdirs.logs": "logs/deeper"}), starts=True)
    with pytest.raises(ConfigError, match=r'output\.subdirs\.logs = "logs": must stay inside'):
        train(cast("TrainConfig", parse_config(changed(given))))


def test_a_link_within_the_folder_or_as_the_folder_is_fine(changed: Change, tmp_path: Path) -> None:
    for name in ("disk", "images"):
        (tmp_path / name).mkdir()
    (tmp_path / "run").symlink_to("disk")
    (tmp_path / "disk" / "logs").symlink_to("samples")
    tree = changed({"output.base_dir": str(tmp_path / "run"), "data.paths.train": str(tmp_path / "images")})
    parse_as(TrainConfig, tree, starts=True)


def test_further_subfolders_are_allowed_by_the_same_rules(changed: Change, tmp_path: Path) -> None:
    tree = changed({"output.subdirs.figures": "paper/figures", "output.base_dir": str(tmp_path)})
    assert parse_config(tree).output.folder("figures") == tmp_path / "paper/figures"
    assert resolve_output_path(tree, "figures") == tmp_path / "paper/figures"
    for wrong in ("../x", "/tmp/x", "", 3):
        tree = changed({"output.subdirs.figures": wrong})
        with pytest.raises(ConfigError, match=r"output\.subdirs\.figures = "):
            validate_config(tree)
        with pytest.raises(ConfigError, match=r"output\.subdirs\.figures = .*must be a relative folder name"):
            resolve_output_path(tree, "figures")
    (tmp_path / "figures").symlink_to("/tmp")
    with pytest.raises(ConfigError, match=r"output\.subdirs\.figures .*must stay inside"):
        parse_as(
            TrainConfig, changed({"output.subdirs.figures": "figures", "output.base_dir": str(tmp_path)}), starts=True
        )


def test_a_mistyped_subfolder_is_not_an_additional_one(changed: Change, tmp_path: Path) -> None:
    tree = changed({"mode": "generate", "generation": {"checkpoint": str(tmp_path)}})
    tree["output"]["subdirs"] = {"genrated": "made"}
    with pytest.raises(ConfigError, match=r"subdirs\.genrated = .*\(did you mean 'output.subdirs.generated'\?\)"):
        validate_config(tree)


@pytest.mark.parametrize("name", ["../../x", "/tmp/x", "a/../../x", "~/x", "x\0y"])
def test_an_experiment_whose_run_folder_would_be_elsewhere_is_refused(changed: Change, name: str) -> None:
    with pytest.raises(ConfigError, match=r"experiment = .*must be a name or a relative path without"):
        validate_config(changed({"experiment": name}))


@pytest.mark.parametrize("name", ["mine", "mine/first", "v1..2", "катя", "a b"])
def test_an_experiment_may_be_in_a_folder_of_its_own(changed: Change, name: str) -> None:
    validate_config(changed({"experiment": name}))


def test_home_is_expanded_in_every_path(changed: Change, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell does not expand ~ after the = of `key=~/folder`."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("images", "val", "run"):
        (tmp_path / name).mkdir()
    tree = changed({"data.paths.train": "~/images", "data.paths.val": "~/val", "output.base_dir": "~"})
    tree["data"]["cache_dir"] = "~/cache"
    tree["training"]["resume"] |= {"enabled": True, "checkpoint": "~/run"}
    tree["generation"]["checkpoint"] = "~/run/x.ckpt"
    config = parse_config(tree)
    assert isinstance(config, TrainConfig)
    assert config.data.paths.train == tmp_path / "images"
    assert config.data.paths.val == tmp_path / "val"
    assert config.data.cache_dir == tmp_path / "cache"
    assert config.output.base_dir == tmp_path
    assert config.training.resume.checkpoint == tmp_path / "run"
    assert config.generation.checkpoint == tmp_path / "run" / "x.ckpt"
    assert resolve_output_path(tree) == resolve_output_path(tree, "logs") == tmp_path / "logs"


def test_the_keys_that_are_paths() -> None:
    """A new path key must be expanded as well."""
    assert path_keys(TrainConfig) == (
        "output.base_dir",
        "generation.checkpoint",
        "data.paths.train",
        "data.paths.val",
        "data.cache_dir",
        "training.resume.checkpoint",
        "evaluation.weights",
        "evaluation.cache_dir",
        "logger.dir",
    )


def test_a_tilde_that_names_no_home_is_left_or_refused(changed: Change, monkeypatch: pytest.MonkeyPatch) -> None:
    assert home_expanded("~no_such_user_of_this_system/x") == "~no_such_user_of_this_system/x"
    assert home_expanded("a/~/b") == "a/~/b"

    def no_home(path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", no_home)
    with pytest.raises(ConfigError, match=r"output\.base_dir = .*HOME is not set"):
        validate_config(changed({"output.base_dir": "~/runs"}))


def test_generated_folder_names_differ_within_the_same_second() -> None:
    names = {new_name() for _ in range(100)}
    assert len(names) == 100
    assert all(TIME_STAMP.fullmatch(name) for name in names)
    assert len({run_folder("mine") for _ in range(100)}) == 100
