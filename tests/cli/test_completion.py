"""TAB completion of train.py, sample.py and evaluate.py, and of no other script, in a real bash."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from diffusion_lab.cli.completion import completion_script
from tests.config.conftest import CONF

ROOT = CONF.parent
Bash = Callable[..., list[str]]

PROGRAMS = [ROOT / "train.py", ROOT / "sample.py", ROOT / "evaluate.py"]
INSTALL = completion_script(["install=bash"], PROGRAMS)

PRESS_TAB = r"""
press() {
    COMPREPLY=(); COMP_LINE=$1; COMP_POINT=${#1}
    local rule=$(complete -p python 2>/dev/null)
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
    lines = bash(before, INSTALL, INSTALL, other, own, completion_script(["uninstall=bash"], PROGRAMS), other)
    assert lines[1:] == ["reply:theirs", "reply:adamw", "reply:theirs"]


@pytest.mark.parametrize("arguments", [["install=zsh"], ["install=fish"], [], ["install=bash", "x=1"]])
def test_other_shells_are_refused(arguments: list[str]) -> None:
    with pytest.raises(ValueError, match="must be followed by install=bash or uninstall=bash"):
        completion_script(arguments, PROGRAMS)


def test_the_real_program_completes_itself() -> None:
    """Paste the line from --help, then press TAB."""
    lines = (
        f'eval "$({sys.executable} train.py --shell-completion install=bash)"',
        PRESS_TAB,
        f"press '{sys.executable} train.py optimizer=ad'",
    )
    done = subprocess.run(["bash", "--norc", "-c", "\n".join(lines)], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "reply:adam adamw", done.stderr
