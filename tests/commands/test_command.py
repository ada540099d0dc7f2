"""``diffusion-lab COMMAND`` and ``python -m diffusion_lab``: which command runs, and how it is described."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import pytest

from diffusion_lab.__main__ import main
from diffusion_lab.console import command_line
from diffusion_lab.console.command_line import COMMANDS, Start, Way, command, current_start
from diffusion_lab.console.terminal import quiet_broken_pipe
from diffusion_lab.runtime.exit_codes import EXIT_CODE
from diffusion_lab.version import __version__

Calls = list[tuple[str, list[str]]]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Commands that are called, with their arguments, instead of running them."""
    calls: Calls = []

    def replaced(name: str) -> None:
        def called(arguments: Sequence[str] | None = None) -> int:
            calls.append((name, list(arguments or ())))
            return 5

        monkeypatch.setattr(import_module(f"diffusion_lab.commands.{name}"), "main", called)

    for name in COMMANDS:
        replaced(name)
    monkeypatch.setattr(command_line, "_start", None)
    return calls


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_runs_with_its_arguments_and_exit_code(name: str, calls: Calls) -> None:
    assert main([name, "--help", "x.yaml"]) == 5
    assert calls == [(name, ["--help", "x.yaml"])]


@pytest.mark.parametrize(
    "words", [["MINE.yaml", "seed=1"], ["--validate", "MINE.yaml"], ["seed=1", "MINE.yml"], ["settings"]]
)
def test_a_settings_file_runs_without_a_command(
    words: list[str], calls: Calls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "settings").touch()
    assert main(words) == 5
    assert calls == [("run", words)]


def test_completion_without_a_command(calls: Calls) -> None:
    main(["--shell-completion", "install=bash"])
    assert calls == [("train", ["--shell-completion", "install=bash"])]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "Error: a command is missing; the commands are train, sample, "),
        (["trian"], "Error: 'trian' is not a command; the commands are"),
        (["optimizer=adam"], "Error: 'optimizer=adam' is not a command"),
    ],
)
def test_an_unknown_command_is_refused(
    words: list[str], message: str, calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == EXIT_CODE
    err = capsys.readouterr().err
    assert err.startswith(message)
    assert ("Did you mean 'train'?" in err) is (words == ["trian"])
    assert not calls


def test_help_lists_every_command_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; from diffusion_lab.__main__ import main; main(['--help']); main(['--version']);"
        "print([name for name in ('torch', 'hydra', 'pydantic', 'numpy', 'yaml') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert all(f"\n  {name} " in done.stdout for name in COMMANDS)
    assert done.stdout.endswith(f"diffusion-lab {__version__}\n[]\n")


@pytest.mark.parametrize(
    ("argv", "start", "printed"),
    [
        (["/venv/bin/diffusion-lab", "train"], Start(Way.CONSOLE, "/venv/bin/diffusion-lab"), "diffusion-lab train"),
        (["/lib/diffusion_lab/__main__.py", "train"], Start(Way.MODULE), "-m diffusion_lab train"),
        (["/lib/diffusion_lab/__main__.py", "MINE.yaml"], Start(Way.SCRIPT), "train.py"),
    ],
)
def test_printed_commands_follow_the_start_of_the_process(
    argv: list[str], start: Start, printed: str, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", argv)
    main()
    assert current_start() == start
    assert command("train").endswith(printed)


@pytest.mark.parametrize("name", [None, *COMMANDS])
def test_a_closed_pipe_ends_a_command_without_a_traceback(name: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in ``diffusion-lab train --help | head -1``."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        with pytest.raises(SystemExit) as ended:
            main([*([name] if name else []), "--help"])
        assert ended.value.code == 141
        stdout.flush()  # what the interpreter does at exit


def test_another_broken_pipe_is_an_error() -> None:
    with pytest.raises(BrokenPipeError), quiet_broken_pipe():
        raise BrokenPipeError
