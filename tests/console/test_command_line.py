"""Printed commands are correct for the shell, Hydra and OmegaConf."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hypothesis import given
from hypothesis import strategies as st

from diffusion_lab.console import command_line
from diffusion_lab.console.command_line import command, hydra_text, interpreter, setting

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
    with initialize_config_dir(CONF, version_base="1.3"):
        return compose("sample", words).ckpt


@pytest.mark.parametrize("text", AWKWARD)
def test_awkward_paths_survive_shell_and_grammar(text: str) -> None:
    shown = subprocess.run(
        ["sh", "-c", f"printf '%s' {shlex.join([setting('ckpt', text)])}"], capture_output=True, text=True, check=True
    )
    assert composed([shown.stdout]) == text


@given(st.text(alphabet=TELLING, max_size=12))
def test_any_string_survives_hydras_grammar(text: str) -> None:
    assert composed(shlex.split(shlex.join([setting("ckpt", text)]))) == text


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


class TestProgram:
    def test_from_the_root_of_the_project(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(command_line.ROOT)
        monkeypatch.setattr(command_line, "interpreter", lambda: "python")
        assert command("sample.py", "ckpt=run") == "python sample.py ckpt=run"
        assert command("-m diffusion_lab", Path("my run/config.yaml")) == "python -m diffusion_lab 'my run/config.yaml'"

    def test_script_is_found_from_another_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        assert Path(shlex.split(command("sample.py"))[1]).is_file()

    def test_python_is_the_running_one(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "python").symlink_to(os.path.realpath(sys.executable))  # that of another environment
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.chdir(tmp_path)
        assert interpreter() == sys.executable
        monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
        assert interpreter() == "python"
