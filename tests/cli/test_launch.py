"""Overrides that Hydra rejects before our code runs are reported like other faults. Real programs: test_scripts."""

from __future__ import annotations

import pickle
import shlex
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hydra import compose
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import OmegaConf

from diffusion_lab.cli import hydra_app
from diffusion_lab.cli.hydra_app import initialized_hydra, parse_arguments
from diffusion_lab.cli.launch import Task, expand_home_in, launch
from diffusion_lab.cli.overrides import check_sweep_size
from diffusion_lab.commands import train
from diffusion_lab.console import command_line
from diffusion_lab.console.command_line import Start, Way, command
from diffusion_lab.faults import ConfigWarning
from diffusion_lab.runtime.exit_codes import EXIT_CODE
from tests.config.conftest import CONF

ExplainCommand = Callable[..., str]


@pytest.fixture
def explain_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> ExplainCommand:
    """Return the message about a command line that cannot be composed."""

    def compose_first_job(args: Namespace, _: Task, name: str, conf: Path, config_name: str) -> None:
        with initialized_hydra(name, conf, args.config_dir):
            compose(config_name, [override.split(",")[0] for override in args.overrides])

    monkeypatch.setattr("diffusion_lab.cli.launch.run_hydra", compose_first_job)

    def run(*arguments: str) -> str:
        with pytest.raises(SystemExit) as caught:
            launch(train.PROGRAM, arguments)
        assert caught.value.code == EXIT_CODE
        return capsys.readouterr().err

    return run


def test_a_mistyped_key_is_reported_with_all_other_faults(explain_command: ExplainCommand) -> None:
    assert explain_command("training.optimizer.learnin_rate=1", "training.epochs=0").splitlines() == [
        "Error: 2 settings are wrong:",
        "  training.epochs = 0: must be at least 1 [command line]",
        "  training.optimizer.learnin_rate = 1: unknown key "
        "(did you mean 'training.optimizer.learning_rate'?) [command line]",
    ]


def test_a_known_key_that_no_file_has_needs_a_plus(explain_command: ExplainCommand) -> None:
    text = explain_command("training.optimizer.eps=1e-8")
    assert text == (
        "Error: training.optimizer.eps has no value in the chosen files: to give it one, type "
        "+training.optimizer.eps=1e-8.\n"
    )
    assert "Did you mean" not in text


def test_a_mistyped_file_of_a_group(explain_command: ExplainCommand) -> None:
    text = explain_command("optimizer=adamww")
    assert text.rstrip().endswith("Did you mean 'adamw'?")
    assert "Config search path" not in text


def test_a_mistyped_key_that_is_swept(explain_command: ExplainCommand) -> None:
    text = explain_command("-m", "training.optimizer.learnin_rate=1,2")
    assert text.rstrip().endswith("Did you mean 'training.optimizer.learning_rate'?")
    assert "+" not in text, "with a + in front it would be refused as well"


@pytest.mark.parametrize("swept", [("optimzer=adam",), ("-m", "optimzer=adam,adamw")])
def test_a_mistyped_group_suggests_the_group(explain_command: ExplainCommand, swept: tuple[str, ...]) -> None:
    assert "id you mean 'optimizer'?" in explain_command(*swept)


def test_a_key_in_a_mistyped_section_is_named_as_it_was_typed(explain_command: ExplainCommand) -> None:
    text = explain_command("data.loadng.batch_size=3")
    assert "  data.loadng.batch_size = 3: unknown key (did you mean 'data.loading.batch_size'?) [command line]" in text


@pytest.mark.parametrize("option", [["-m"], ["--config-name", "train"], ["--config-dir=optimizer=adam"]])
def test_settings_are_accepted_on_both_sides_of_an_option(option: list[str]) -> None:
    args = parse_arguments(["optimizer=adam", *option, "training.epochs=3", "optimizer=adam"])
    assert args.overrides == ["optimizer=adam", "training.epochs=3", "optimizer=adam"]
    assert args.multirun or args.config_name == "train" or args.config_dir == "optimizer=adam"


def test_an_argument_that_is_not_an_override(explain_command: ExplainCommand) -> None:
    assert explain_command("training.epochs=[1").startswith("Error: ")


@pytest.mark.parametrize(
    ("argument", "shown"),
    [
        ("=1", "  =1: must be key=value, +key=value or ~key"),
        ("model=null", "  model=null: must name a file in conf/model/: dit_base, dit_small,"),
        ("optimizer=3", "  optimizer=3: must name a file in conf/optimizer/: "),
        ("sampler={a: 1}", "  sampler={a: 1}: must name a file in conf/sampler/: "),
    ],
)
def test_errors_during_composition_are_one_message(explain_command: ExplainCommand, argument: str, shown: str) -> None:
    text = explain_command(argument)
    assert text.startswith("Error: 1 argument cannot be parsed:\n" + shown)
    assert "Traceback" not in text


def test_a_setting_that_hydra_rejects_without_a_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def compose_config(*_: object) -> None:  # as Hydra calls it
        raise AssertionError

    monkeypatch.setattr("diffusion_lab.cli.launch.run_hydra", compose_config)
    with pytest.raises(SystemExit, match=str(EXIT_CODE)):
        launch(train.PROGRAM, ["hydra.verbose=5"])
    assert "check those that start with hydra." in capsys.readouterr().err


def test_a_sweep_that_would_never_end_is_refused(
    explain_command: ExplainCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = explain_command("-m", "compute.seed=range(0,50000)", "optimizer=adam,adamw,sgd")
    assert text.startswith(
        "Error: optimizer makes this a sweep of 150,000 jobs, more than the limit of 100,000: use fewer"
    )
    check_sweep_size(["compute.seed=range(0,50000)", "optimizer=adam,adamw"])
    check_sweep_size(["hydra/sweeper=optuna", "compute.seed=range(0,1000000000)"])


@pytest.fixture
def hydra_calls(monkeypatch: pytest.MonkeyPatch) -> list[Namespace]:
    """Command lines that are passed on to Hydra, which is not run."""
    calls: list[Namespace] = []
    monkeypatch.setattr("diffusion_lab.cli.launch.run_hydra", lambda args, *_: calls.append(args))
    return calls


def test_an_error_of_the_program_itself_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise KeyError("a mistake in the code")

    monkeypatch.setattr("diffusion_lab.cli.launch.run_hydra", broken)
    with pytest.raises(KeyError, match="a mistake in the code"):
        launch(train.PROGRAM, [])


def test_valid_commands_run(hydra_calls: list[Namespace]) -> None:
    launch(train.PROGRAM, ["training.epochs=3"])
    assert [args.overrides for args in hydra_calls] == [["training.epochs=3"]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-m", "--cfg", "job"], "--multirun and --cfg exclude each other: use one of them"),
        (["--resolve"], "--resolve only has an effect with --cfg or --help"),
        (["--experimental-rerun", "config.pickle"], "--experimental-rerun is not supported"),
        (["--config-dir", "nowhere"], "--config-dir must be an existing folder, got 'nowhere'"),
    ],
)
def test_options_without_effect_are_refused(
    hydra_calls: list[Namespace], options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match=str(EXIT_CODE)):
        launch(train.PROGRAM, options)
    assert f"Error: {message}" in capsys.readouterr().err
    assert not hydra_calls


@pytest.mark.parametrize("option", [[], ["--config-path", "mine"], ["--config-path", "pkg://my_lab.conf"]])
def test_the_config_path_replaces_the_folder_of_the_project(
    option: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relative to the current folder, since an installed command has no folder of its own."""
    monkeypatch.chdir(tmp_path)
    folders: list[Path | str] = []
    monkeypatch.setattr("diffusion_lab.cli.launch.run_hydra", lambda _, task, name, conf, main: folders.append(conf))
    launch(train.PROGRAM, option)
    assert folders == [{(): CONF, ("mine",): tmp_path / "mine"}.get(tuple(option[1:]), "pkg://my_lab.conf")]


def composed_files(folder: Path) -> dict[str, str]:
    """Return what Hydra composes with ``--config-dir``, by key."""
    with initialized_hydra("train", CONF, str(folder)):
        composed = compose("train", ["optimizer=adam", "+mine=first"])
    return {"lr": composed.training.optimizer.learning_rate, "mine": composed.mine.key, "data": composed.name}


def test_files_of_the_config_dir_are_searched_first(tmp_path: Path) -> None:
    for group in ("optimizer", "mine"):
        (tmp_path / group).mkdir()
    (tmp_path / "optimizer/adam.yaml").write_text("# @package training.optimizer\ntype: adam\nlearning_rate: 7.0\n")
    (tmp_path / "mine/first.yaml").write_text("key: 1\n")
    assert composed_files(tmp_path) == {"lr": 7.0, "mine": 1, "data": "digits"}


def test_a_mistyped_key_is_explained_with_files_of_the_config_dir(
    tmp_path: Path, explain_command: ExplainCommand
) -> None:
    (tmp_path / "optimizer").mkdir()
    (tmp_path / "optimizer/mine.yaml").write_text("# @package training.optimizer\ntype: adam\nlearning_rate: 1.0\n")
    text = explain_command("--config-dir", str(tmp_path), "optimizer=mine", "training.epoch=3")
    assert "training.epoch = 3: unknown key (did you mean 'training.epochs'?) [command line]" in text


class TestMode:
    """Whether a command line runs one job or a sweep."""

    @staticmethod
    def mode(*arguments: str) -> tuple[RunMode, list[str]]:
        args = parse_arguments(list(arguments))
        overrides = list(args.overrides)
        with initialized_hydra("train", CONF, args.config_dir) as hydra:
            return hydra_app._mode(hydra, args, "train", overrides), overrides

    def test_without_composing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Composing the tree an extra time takes a fifth of the start-up."""
        monkeypatch.setattr("hydra._internal.hydra.Hydra.compose_config", lambda *_, **__: pytest.fail("composed"))
        assert self.mode("training.epochs=3") == (RunMode.RUN, ["training.epochs=3", "hydra.mode=RUN"])
        assert self.mode("-m", "optimizer=adam,adamw")[0] is RunMode.MULTIRUN

    def test_by_a_key(self) -> None:
        assert self.mode("hydra.mode=MULTIRUN")[0] is RunMode.MULTIRUN

    def test_by_a_recipe_of_the_user(self, tmp_path: Path) -> None:
        (tmp_path / "experiment").mkdir()
        (tmp_path / "experiment/search.yaml").write_text("# @package _global_\nhydra: {mode: MULTIRUN}\n")
        assert self.mode("--config-dir", str(tmp_path), "experiment=search")[0] is RunMode.MULTIRUN

    def test_a_typed_sweep_prevails_with_a_warning(self) -> None:
        with pytest.warns(ConfigWarning, match="-m runs a sweep although hydra.mode is RUN"):
            assert self.mode("-m", "hydra.mode=RUN")[0] is RunMode.MULTIRUN


def test_a_task_can_be_pickled_and_prints_commands_as_the_start_did(monkeypatch: pytest.MonkeyPatch) -> None:
    """Launchers send it to processes with other command lines."""
    monkeypatch.setattr(command_line, "_start", None)
    ran: list[str] = []
    monkeypatch.setattr(train, "run", lambda composed: ran.append(command("sample", "ckpt=run")))
    task = Task(train.run, Start(Way.MODULE))
    sent = pickle.loads(pickle.dumps(replace(task, run=launch)))
    assert (sent.run, sent.start) == (launch, Start(Way.MODULE))
    task(OmegaConf.create({}))
    assert ran == [shlex.join([command_line.interpreter(), "-m", "diffusion_lab", "sample", "ckpt=run"])]


def test_home_is_expanded_in_folders_that_hydra_creates(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hydra would create a folder named ~."""
    monkeypatch.setenv("HOME", str(tmp_path / "it's me"))
    expanded = expand_home_in("hydra.sweep.dir=~/sweeps/mine")
    (override,) = OverridesParser.create().parse_overrides([expanded])
    assert (override.key_or_group, override.value()) == ("hydra.sweep.dir", f"{tmp_path}/it's me/sweeps/mine")
    for other in ("hydra.sweep.dir=sweeps", "~training.ema", "name=~", "-m"):
        assert expand_home_in(other) == other
