"""The command: text, JSON, exit codes, and a Python that lacks every package."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from diffusion_lab.commands import doctor
from diffusion_lab.commands.doctor import main
from diffusion_lab.console.command_line import CHECKOUT
from diffusion_lab.doctor import examination, packages
from diffusion_lab.doctor.examination import Examination
from diffusion_lab.doctor.findings import Finding, Status, advice, examined, fact, ok, problem
from diffusion_lab.doctor.page import Style, lines_of, summary

TITLES = ["Versions", "Hardware", "Extras", "Caches", "Weights & Biases", "Disk"]
LONG = fact("words", "a word " * 40 + "2.00 × as fast", "rm -r /a/very/long/path" * 5)


class TestText:
    def test_it_fits_into_80_columns_except_for_commands_to_paste(self):
        first, *others, last = lines_of(LONG, Style())
        assert all(len(line) <= 80 for line in [first, *others])
        assert last.strip() == LONG.commands[0]
        assert first.startswith("  · words ")
        assert all(line.startswith(" " * 23) and line[23] != " " for line in others)

    @pytest.mark.parametrize("status", Status)
    def test_ascii(self, status):
        text = "\n".join(lines_of(Finding(status, "name", LONG.text), Style(encoding="ascii")))
        assert "2.00 x as fast" in text.encode("ascii").decode()

    def test_colors_only_where_wanted(self):
        assert "\x1b[33m!\x1b[0m" in next(lines_of(advice("a", "b"), Style(color=True)))
        assert "\x1b" not in next(lines_of(advice("a", "b"), Style()))

    def test_escape_codes_in_a_fact_are_harmless(self):
        assert "\x1b" not in next(lines_of(fact("a", "\x1b[2J"), Style()))

    def test_the_last_line_counts(self):
        assert summary([ok("a", "b")], Style()) == "Everything that is needed works."
        found = [problem("a", "b"), advice("c", "d"), advice("c", "d")]
        assert summary(found, Style()) == "1 problem (✗), 2 lines with advice (!)."


class TestChecks:
    def test_one_that_fails_keeps_what_it_found(self):
        def check(error: Exception):
            yield ok("first", "x")
            raise error

        found = examined("name", lambda: check(ImportError("No module named 'torch'")))
        assert [each.status for each in found] == [Status.OK, Status.PROBLEM]
        assert found[1].commands[0].endswith("-c constraints.txt")
        assert (
            examined("name", lambda: check(RuntimeError("odd\nmore")))[1].text
            == "cannot be examined: RuntimeError: odd"
        )


class TestCommand:
    @pytest.fixture
    def healthy(self, monkeypatch) -> list[Finding]:
        findings = [ok("disk", "40 GB free")]
        monkeypatch.setattr(Examination, "sections", lambda self: iter([("Disk", findings)]))
        return findings

    def test_exit_code(self, healthy, capsys):
        assert main([]) == 0
        assert capsys.readouterr().out == (
            "Disk\n  ✓ disk               40 GB free\n\nEverything that is needed works.\n"
        )
        healthy.append(advice("cores", "few"))
        assert main([]) == 0
        healthy.append(problem("Python", "too old", "pyenv install 3.12"))
        assert main([]) == 1

    def test_json(self, healthy, capsys):
        healthy.append(problem("Python", "too old", "pyenv install 3.12"))
        assert main(["--json"]) == 1
        content = json.loads(capsys.readouterr().out)
        assert content["ok"] is False
        assert content["sections"]["Disk"][1] == {
            "status": "problem",
            "name": "Python",
            "text": "too old",
            "commands": ["pyenv install 3.12"],
        }
        assert content["performance"] is None

    def test_this_machine(self, capsys, monkeypatch):
        monkeypatch.setenv("WANDB_API_KEY", "not-to-be-shown" * 3)
        monkeypatch.setattr(packages, "TRAINING", "json")  # importing training takes seconds
        main(["--no-measure"])
        out = capsys.readouterr().out
        assert [line for line in out.splitlines() if line and line[0] != " "][:-1] == TITLES
        assert "cannot be examined" not in out
        assert "not-to-be-shown" not in out

    def test_the_measurement_gets_the_options(self, monkeypatch, capsys):
        asked = []
        monkeypatch.setattr(examination, "measure_speed", lambda *options: asked.append(options))
        monkeypatch.setattr(examination, "speed_findings", lambda found: [ok("best", "performance=default")])
        section = dict(Examination(False, True, True, "doctor", print)._checks())["Speed of training"]
        assert examined(*section[0]) == [ok("best", "performance=default")]
        assert asked[0][0] is True
        assert asked[0][3] == "doctor --compile"

    def test_waiting_is_explained_only_at_a_terminal(self, capsys, monkeypatch):
        doctor._report("measuring")
        assert capsys.readouterr().err == ""
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
        doctor._report("measuring")
        assert capsys.readouterr().err == "  measuring …\n"

    def test_a_python_without_any_package_is_told_what_to_install(self):
        """``-S`` leaves out all packages, as in an environment where nothing was installed."""
        assert CHECKOUT is not None
        code = "import sys; from diffusion_lab.commands.doctor import main; sys.exit(main([]))"
        done = subprocess.run(
            [sys.executable, "-S", "-c", code],
            cwd=CHECKOUT,
            env={**os.environ, "PYTHONPATH": str(CHECKOUT), "PYTHONIOENCODING": "utf-8"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 1, done.stderr
        assert done.stderr == ""
        assert "No module named 'torch'" in done.stdout
        assert " -m pip install -e . -c constraints.txt\n" in done.stdout
        assert "usable, of" in done.stdout
