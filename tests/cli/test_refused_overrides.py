"""Errors of Hydra during composition are explained by key, with what to type instead."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose

from diffusion_lab.cli.hydra_app import initialized_hydra
from diffusion_lab.cli.launch import launch
from diffusion_lab.cli.overrides import check_separate_folders, check_sweep_not_empty, check_trains
from diffusion_lab.cli.refused_overrides import explain_refused, hydra_settings, refuse_unread
from diffusion_lab.cli.run_dir import check_hydra_folders
from diffusion_lab.commands import sample
from diffusion_lab.faults import CommandError
from diffusion_lab.runtime.exit_codes import EXIT_CODE
from tests.config.conftest import CONF


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("+data=emoji", "data is already chosen: to choose another file, type data=emoji once, without +"),
        ("+sampler=heun", "sampler is already chosen: to choose another file, type sampler=heun once, without +"),
        ("++data=emoji", "++data=emoji: files of groups are chosen without +: type data=emoji"),
        ("data@foo=emoji", "data@foo: no file of data is chosen for foo: to choose the file of data, type data=emoji"),
        ("~data=emoji", "~data=emoji deletes nothing, since it is not chosen: remove it"),
        ("+data.paths=3", "+data.paths=3: data.paths already has a value: type data.paths=3, without +"),
        ("~foo.bar", "~foo.bar deletes nothing, since there is no such key: remove it"),
        (
            "compute.seed=1,2",
            "compute.seed=1,2 has several values: to run one job for each, add -m; for a list, type "
            "compute.seed=[1,2], quoted for the shell",
        ),
        ("~compute.seed=7", "~compute.seed=… deletes nothing, since the value is 0: type ~compute.seed"),
    ],
)
def test_a_refused_override_is_explained_with_what_to_type(argument: str, message: str) -> None:
    with initialized_hydra("app", CONF), pytest.raises(Exception) as caught:  # noqa: PT011
        compose("train", [argument])
    assert explain_refused(caught.value, [argument]) == message


@pytest.mark.parametrize(
    ("argument", "why"),
    [
        ("hydra.job.num=abc", "Value 'abc' of type 'str' could not be converted to Integer"),
        ("hydra.mode=foo", "Invalid value 'foo', expected one of [RUN, MULTIRUN]"),
        ("+hydra.sweep.dir.x=1", "Cannot convert 'dict' to string: '{}'"),
    ],
)
def test_a_value_that_hydra_cannot_merge_is_explained(argument: str, why: str) -> None:
    with initialized_hydra("app", CONF), pytest.raises(Exception) as caught:  # noqa: PT011
        compose("train", [argument], return_hydra_config=True)
    assert explain_refused(caught.value, [argument]) == f"{argument}: {why}. {hydra_settings()}"


def test_unknown_errors_are_left_to_hydra() -> None:
    assert explain_refused(ValueError("anything else"), ["a=b"]) is None


@pytest.mark.parametrize("option", [[], ["-m"]])
def test_settings_of_training_are_refused_by_sample(option: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    unread = ["+data=emoji", "optimizer=adam", "++training.epochs=3", "experiment=digits"]
    read = ["model=unet_tiny", "sampler=heun", "compute.device=cpu"]
    with pytest.raises(SystemExit, match=str(EXIT_CODE)):
        launch(sample.PROGRAM, [*option, "ckpt=x", *unread, *read])
    first, *named = capsys.readouterr().err.splitlines()
    assert first.startswith("Error: 4 arguments are only read by train.py;")
    assert first.endswith("Remove:")
    assert [line.strip() for line in named] == unread


def test_evaluate_reads_keys_of_two_sections_of_training_but_no_groups() -> None:
    groups = ("data", "evaluation", "optimizer")
    refuse_unread(["data.paths.train=a", "evaluation.split=val", "sampler=ddim"], groups, "evaluate")
    with pytest.raises(CommandError) as caught:
        refuse_unread(["data=emoji", "+evaluation=on", "optimizer=adam", "training.epochs=3"], groups, "evaluate")
    assert str(caught.value).startswith("4 arguments are only read by train.py; evaluate.py takes the model from")


@pytest.mark.parametrize(
    "argument",
    [
        "hydra.sweep.dir=here",
        "++hydra.sweep.subdir=x",
        "hydra/launcher=joblib",
        "+hydra.launcher.n_jobs=2",
        "hydra/sweeper=optuna",
        "hydra/sweeper/sampler=tpe",
        "hydra.sweeper.max_batch_size=2",
    ],
)
def test_settings_of_sweeps_are_refused_in_a_single_run(argument: str) -> None:
    with pytest.raises(CommandError, match=r"only has an effect in a sweep: add -m"):
        check_hydra_folders(["seed=1", argument], sweeps=False)
    check_hydra_folders(["seed=1", argument], sweeps=True)


@pytest.mark.parametrize("argument", ["hydra.run.dir=here", "++hydra.run.dir=here"])
def test_the_folder_of_a_single_run_is_refused_in_a_sweep(argument: str) -> None:
    with pytest.raises(CommandError, match=r"set the folder of a sweep with hydra\.sweep\.dir"):
        check_hydra_folders(["seed=1", argument], sweeps=True)
    check_hydra_folders(["seed=1", argument], sweeps=False)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("compute.seed=glob(*)", r"compute\.seed is not a group: list the values"),
        ("optimizer=glob(zz*)", r"matches no file.*the files are adam, adamw"),
        ("optimizer=glob(*,exclude=ad*)", r"matches no file"),
        ("compute.seed=range(3,3)", r"is empty, so the sweep would have no job"),
        ("compute.seed=range(3,0)", r"is empty"),
    ],
)
def test_a_sweep_without_jobs_is_refused(argument: str, message: str) -> None:
    with pytest.raises(CommandError, match=message):
        check_sweep_not_empty(["training.epochs=2", argument], [CONF])


def test_sweeps_with_jobs_are_accepted(tmp_path: Path) -> None:
    (tmp_path / "optimizer").mkdir()
    (tmp_path / "optimizer" / "zzz.yaml").touch()
    arguments = ["optimizer=glob(zz*)", "sampler=glob(d*)", "compute.seed=range(3,0,-1)", "training.epochs=1,2", "a=[1"]
    check_sweep_not_empty(arguments, [CONF, tmp_path])
    check_sweep_not_empty(["compute.seed=range(3,3)", "hydra/sweeper=optuna"], [CONF])


@pytest.mark.parametrize("argument", ["preview=true", "preview=true,false", "++tune.batch_size=true"])
def test_a_sweep_of_previews_is_refused(argument: str) -> None:
    with pytest.raises(CommandError, match="leave out -m"):
        check_trains(["compute.seed=1,2", argument])
    check_trains(["compute.seed=1,2", "preview=false", "tune.learning_rate=false"])


@pytest.mark.parametrize(
    "arguments",
    [
        ["output.base_dir=mine", "compute.seed=1,2"],
        ["compute.seed=range(1,3)", "++output.base_dir='mine'"],
        ["optimizer=glob(*)", "output.base_dir=yours,theirs", "output.base_dir=mine"],
        ["hydra/sweeper=optuna", "output.base_dir=mine"],
    ],
)
def test_one_folder_for_all_jobs_is_refused(arguments: list[str]) -> None:
    with pytest.raises(CommandError, match=r"^output\.base_dir = 'mine' would be .* with hydra\.sweep\.dir$"):
        check_separate_folders(arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        ["output.base_dir=mine", "compute.seed=1"],  # the one job of a launcher
        ["output.base_dir=mine,yours", "compute.seed=1,2"],
        ["output.base_dir=mine/${compute.seed}", "compute.seed=1,2"],
        ["compute.seed=1,2"],
    ],
)
def test_separate_folders_are_accepted(arguments: list[str]) -> None:
    check_separate_folders(arguments)
