"""TAB completion of diffusion-lab, train.py, sample.py and evaluate.py, and of no other program, in a real bash."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from diffusion_lab.cli.completion import completion_script
from diffusion_lab.console import command_line
from diffusion_lab.console.command_line import COMMANDS, Start, Way
from tests.config.conftest import CONF

ROOT = CONF.parent
Bash = Callable[..., list[str]]

INSTALL = completion_script(["install=bash"])

PRESS_TAB = r"""
press() {
    COMPREPLY=(); COMP_LINE=$1; COMP_POINT=${#1}
    local rule=$(complete -p "${1%% *}" 2>/dev/null || complete -p python 2>/dev/null)
    [[ $rule =~ -F\ ([^ ]+) ]] && "${BASH_REMATCH[1]}" python "${1##* }" ""
    printf 'reply:%s\n' "${COMPREPLY[*]}"
}
"""

RECORDS = """#!/bin/sh
echo "ran:$*:$COMP_LINE" >> "$RECORD"
echo optimizer=adam optimizer=adamw
"""
"""Fake python that prints what it is asked to run."""


@pytest.fixture
def bash(tmp_path: Path) -> Bash:
    """Run lines in a bash with a recording python; return what it was asked to run, then what the lines print."""
    (tmp_path / "python").write_text(RECORDS)
    (tmp_path / "python").chmod(0o755)
    record = tmp_path / "record"

    def run(*lines: str) -> list[str]:
        done = subprocess.run(
            ["bash", "--norc", "-c", "\n".join(["set +o posix", PRESS_TAB, *lines])],
            cwd=ROOT,
            env={"PATH": f"{tmp_path}:/usr/bin:/bin", "RECORD": str(record)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert not done.stderr
        return [*(record.read_text().splitlines() if record.exists() else ()), *done.stdout.splitlines()]

    return run


def test_no_other_script_is_run(bash: Bash) -> None:
    lines = ("press 'python scripts/demo.py ou'", "press 'python scripts/demo.py '", "press 'python tra'")
    assert bash(INSTALL, *lines) == ["reply:"] * 3


def test_a_script_of_the_same_name_elsewhere_is_not_run(bash: Bash, tmp_path: Path) -> None:
    (tmp_path / "train.py").touch()
    assert bash(INSTALL, f"cd {tmp_path}", "press 'python train.py ou'") == ["reply:"]


@pytest.mark.parametrize("program", ["train.py", "./sample.py", "evaluate.py", str(ROOT / "train.py")])
def test_the_projects_scripts_are_completed(bash: Bash, program: str) -> None:
    asked, reply = bash(INSTALL, f"press 'python {program} data=emoji optimizer=ad'")
    assert asked == f"ran:{program} -sc query=bash:python program data=emoji optimizer=ad"
    assert reply == "reply:adam adamw", "bash replaces what follows the ="


def test_full_words_are_returned_if_bash_does_not_break_words_at_the_equals_sign(bash: Bash) -> None:
    lines = bash(INSTALL, "COMP_WORDBREAKS=${COMP_WORDBREAKS//=}", "press 'python train.py optimizer=ad'")
    assert lines[-1] == "reply:optimizer=adam optimizer=adamw"


def test_earlier_completions_of_other_scripts_still_work(bash: Bash) -> None:
    before = "_old() { COMPREPLY=(theirs); }; complete -o default -F _old python"
    other, own = "press 'python other.py x'", "press 'python train.py optimizer=adamw'"
    lines = bash(before, INSTALL, INSTALL, other, own, completion_script(["uninstall=bash"]), other)
    assert lines[1:] == ["reply:theirs", "reply:adamw", "reply:theirs"]


@pytest.fixture
def console(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Install a recording diffusion-lab; return the script that completes it."""
    script = tmp_path / "diffusion-lab"
    script.write_text(RECORDS)
    script.chmod(0o755)
    monkeypatch.setattr(command_line, "_start", Start(Way.CONSOLE, str(script)))
    return completion_script(["install=bash"])


def test_the_installed_command_is_completed(bash: Bash, console: str) -> None:
    asked, reply = bash(console, "press 'diffusion-lab train data=emoji optimizer=ad'")
    assert asked == "ran:train -sc query=bash:python program data=emoji optimizer=ad"
    assert reply == "reply:adam adamw"


def test_commands_of_the_installed_command_are_completed(bash: Bash, console: str) -> None:
    lines = ("press 'diffusion-lab '", "press 'diffusion-lab s'", "press 'diffusion-lab checkpoint v'")
    assert bash(console, *lines) == [f"reply:{' '.join(COMMANDS)}", "reply:sample", "reply:"]


def test_another_program_of_the_commands_name_is_not_run(bash: Bash, console: str, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = tmp_path / "other/diffusion-lab"
    other.write_text(RECORDS)
    other.chmod(0o755)
    assert bash(console, f"press '{other} train optimizer=ad'") == ["reply:"]


@pytest.mark.parametrize("arguments", [["install=zsh"], ["install=fish"], [], ["install=bash", "x=1"]])
def test_other_shells_are_refused(arguments: list[str]) -> None:
    with pytest.raises(ValueError, match="must be followed by install=bash or uninstall=bash"):
        completion_script(arguments)


def test_the_real_program_completes_itself() -> None:
    """Paste the line from --help, then press TAB."""
    lines = (
        f'eval "$({sys.executable} train.py --shell-completion install=bash)"',
        PRESS_TAB,
        f"press '{sys.executable} train.py optimizer=ad'",
    )
    done = subprocess.run(["bash", "--norc", "-c", "\n".join(lines)], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "reply:adam adamw", done.stderr
