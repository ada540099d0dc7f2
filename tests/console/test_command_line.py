"""Printed commands are correct for the shell, Hydra and OmegaConf."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_lab.cli.hydra_app import initialized_hydra
from diffusion_lab.console import command_line
from diffusion_lab.console.command_line import (
    CHECKOUT,
    COMMANDS,
    Start,
    Way,
    command,
    hydra_text,
    interpreter,
    program_name,
    set_start,
    setting,
    usage,
)

CONF = str(Path(__file__).parents[2] / "conf")
TELLING = "ab7/.-_~ \t\\\"'`$!{}()[]=,:;&|<>*?#%@+öЖ字\n"
"""Characters with a meaning for the shell, Hydra or OmegaConf."""

AWKWARD = (
    "outputs/my run (2)",
    "lr=1e-3,bs=32",
    "größer/Ключ",
    'it\'s "quoted"',
    "back\\slash\\",
    "ends in a quote\\'",
    "${oc.env:HOME}",
    "\\${name} \\\\${name}",
    "null",
    "1e-3",
    ".5",
    "12",
    "~/runs",
    "$HOME/`date`",
    "choice(a,b)",
    " spaces ",
    "",
)


def composed(words: list[str]) -> object:
    """The checkpoint that sample.py would take of these arguments."""
    with initialized_hydra("app", CONF):
        return compose("sample", words).ckpt


@pytest.mark.parametrize("text", AWKWARD)
def test_awkward_paths_survive_shell_and_grammar(text: str) -> None:
    shown = subprocess.run(
        ["sh", "-c", f"printf '%s' {shlex.join([setting('ckpt', text)])}"], capture_output=True, text=True, check=True
    )
    assert composed([shown.stdout]) == text


@settings(max_examples=50)  # each composes all settings
@given(st.text(alphabet=TELLING, max_size=12))
def test_any_string_survives_hydras_grammar(text: str) -> None:
    assert composed(shlex.split(shlex.join([setting("ckpt", text)]))) == text


@settings(max_examples=50)
@given(
    st.lists(
        st.text(alphabet=TELLING.replace("$", ""), max_size=6) | st.integers() | st.booleans() | st.none(), max_size=4
    )
)
def test_any_list_survives_hydras_grammar(values: list[object]) -> None:
    """Without references: Hydra resolves an escaped one in a list when it composes."""
    assert composed([f"ckpt={hydra_text(values)}"]) == values


def test_a_backslash_before_a_final_line_break_is_plain() -> None:
    values = ["\\\n"]
    assert composed([f"ckpt={hydra_text(values)}"]) == values


def test_ordinary_paths_stay_readable() -> None:
    assert setting("ckpt", Path("outputs/digits/2026-01-02_03-04-05")) == "ckpt=outputs/digits/2026-01-02_03-04-05"
    assert setting("ckpt", "/data/run_1/best.ckpt") == "ckpt=/data/run_1/best.ckpt"


class TestCommand:
    """The command by which a program was started is the one that it prints."""

    @pytest.fixture(autouse=True)
    def default_start(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(command_line, "_start", None)
        monkeypatch.setattr(command_line, "interpreter", lambda: "python")

    def test_of_scripts_in_a_checkout(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert CHECKOUT is not None
        monkeypatch.chdir(CHECKOUT)
        assert command("sample", "ckpt=run") == "python sample.py ckpt=run"
        assert command("run", Path("my run/config.yaml")) == "python -m diffusion_lab 'my run/config.yaml'"
        assert command("checkpoint", "verify") == "python -m diffusion_lab.checkpoint verify"
        assert command("migrate") == "python scripts/migrate_config_v1_to_v2.py"
        assert (program_name("train"), program_name("run")) == ("train.py", "diffusion-lab run")

    def test_script_is_found_from_another_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        assert all(Path(shlex.split(command(name))[1]).is_file() for name in command_line.SCRIPTS)

    @pytest.mark.parametrize("name", COMMANDS)
    def test_of_the_console_script(self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        script = tmp_path / "bin/diffusion-lab"
        script.parent.mkdir()
        script.touch(0o755)
        set_start(Start(Way.CONSOLE, str(script)))
        assert command(name, "a b") == f"{script} {name} 'a b'"
        monkeypatch.chdir(tmp_path)
        assert command(name) == f"bin/diffusion-lab {name}"
        monkeypatch.setenv("PATH", str(script.parent))
        assert command(name) == f"diffusion-lab {name}"
        assert usage(name) == program_name(name) == f"diffusion-lab {name}"

    def test_of_the_module(self) -> None:
        set_start(Start(Way.MODULE))
        assert command("train", "seed=1") == "python -m diffusion_lab train seed=1"

    def test_of_a_library_installed_from_a_wheel(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without a command that was started: the console script, else the module."""
        monkeypatch.setattr(command_line, "CHECKOUT", None)
        monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
        assert command("sample") == "python -m diffusion_lab sample"
        (tmp_path / "diffusion-lab").touch(0o755)
        assert command("sample") == f"{tmp_path}/diffusion-lab sample"


class TestInterpreter:
    def test_python_is_the_running_one(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "python").symlink_to(os.path.realpath(sys.executable))  # that of another environment
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.chdir(tmp_path)
        assert interpreter() == sys.executable
        monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
        assert interpreter() == "python"
