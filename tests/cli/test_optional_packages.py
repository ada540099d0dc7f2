"""The message about a launcher or sweeper whose package is missing has the command that installs it."""

from __future__ import annotations

import contextlib
import importlib.util
import shlex
import sys
import tomllib
from pathlib import Path

import pytest

from diffusion_lab.cli.optional_packages import PACKAGES, install_hint
from tests.cli.test_launch import ExplainCommand, explain_command  # noqa: F401

ROOT = Path(__file__).parents[2]


def test_versions_are_those_of_the_extras() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {package for packages in PACKAGES.values() for package in packages} == {
        *extras["launchers"],
        *extras["optuna"],
    }


@pytest.mark.parametrize("option", PACKAGES)
def test_the_command_installs_with_this_python(option: str) -> None:
    advice = install_hint(option)
    assert advice is not None
    line = advice.splitlines()[1]
    assert shlex.split(line) == [sys.executable, "-m", "pip", "install", *PACKAGES[option]]


@pytest.mark.parametrize(
    ("choice", "module"),
    [
        ("hydra/launcher=joblib", "hydra_joblib_launcher"),
        ("hydra/launcher=submitit_slurm", "hydra_submitit_launcher"),
        ("hydra/launcher=ray", "hydra_ray_launcher"),
        ("hydra/sweeper=optuna", "hydra_optuna_sweeper"),
    ],
)
def test_a_missing_package_is_reported(choice: str, module: str, explain_command: ExplainCommand) -> None:  # noqa: F811
    with contextlib.suppress(ModuleNotFoundError):
        if importlib.util.find_spec(f"hydra_plugins.{module}"):
            pytest.skip("the package is installed here")
    message = explain_command("-m", choice, "compute.seed=1")
    assert message.startswith(f"Error: {choice} is in a package that is not installed. To install it:\n")
    assert f" -m pip install {module.replace('_', '-')}==" in message


def test_a_misspelled_name_is_distinguished_from_a_missing_package(explain_command: ExplainCommand) -> None:  # noqa: F811
    assert "Did you mean 'joblib'?" in explain_command("-m", "hydra/launcher=jobib", "compute.seed=1")
    assert install_hint("hydra/launcher/jobib") is None
