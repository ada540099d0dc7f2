"""Overrides that Hydra rejects before our code runs are reported like other faults. Real programs: test_scripts."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser

from diffusion_lab.cli.compose import compose_train_config
from diffusion_lab.cli.launch import expand_home_in, launch
from diffusion_lab.cli.overrides import check_sweep_size
from diffusion_lab.runtime.exit_codes import EXIT_CODE
from tests.config.conftest import CONF

ExplainCommand = Callable[..., str]


@pytest.fixture
def explain_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> ExplainCommand:
    """Return the message about a command line that cannot be composed."""

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["train.py", *arguments])

        def application() -> None:
            with initialize_config_dir(str(CONF), version_base="1.3"):
                compose("train", [word.split(",")[0] for word in arguments if word != "-m"])  # the first job of a sweep

        with pytest.raises(SystemExit) as caught:
            launch(application, compose_train_config, CONF, "train")
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
def test_settings_are_accepted_on_both_sides_of_an_option(option: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", "optimizer=adam", *option, "training.epochs=3", "optimizer=adam"])
    launch(lambda: None, compose_train_config, CONF, "train")
    assert sys.argv[1:] == [*option, "optimizer=adam", "training.epochs=3", "optimizer=adam"]


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
    def compose_config() -> None:  # as Hydra calls it
        raise AssertionError

    monkeypatch.setattr(sys, "argv", ["train.py", "hydra.verbose=5"])
    with pytest.raises(SystemExit, match=str(EXIT_CODE)):
        launch(compose_config, compose_train_config, CONF, "train")
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


def test_an_error_of_the_program_itself_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise KeyError("a mistake in the code")

    monkeypatch.setattr(sys, "argv", ["train.py"])
    with pytest.raises(KeyError, match="a mistake in the code"):
        launch(broken, compose_train_config, CONF, "train")


def test_valid_commands_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py"])
    ran: list[str] = []
    launch(lambda: ran.append("yes"), compose_train_config, CONF, "train")
    assert ran == ["yes"]


def test_home_is_expanded_in_folders_that_hydra_creates(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hydra would create a folder named ~."""
    monkeypatch.setenv("HOME", str(tmp_path / "it's me"))
    expanded = expand_home_in("hydra.sweep.dir=~/sweeps/mine")
    (override,) = OverridesParser.create().parse_overrides([expanded])
    assert (override.key_or_group, override.value()) == ("hydra.sweep.dir", f"{tmp_path}/it's me/sweeps/mine")
    for other in ("hydra.sweep.dir=sweeps", "~training.ema", "name=~", "-m"):
        assert expand_home_in(other) == other
