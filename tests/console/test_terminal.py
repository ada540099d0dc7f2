"""Escape codes in names and contents of files reach neither the terminal nor ``run.log``."""

from __future__ import annotations

import io
import logging
import sys
import warnings
from pathlib import Path

import pytest
import torch
from rich.console import Console

from diffusion_lab.cli.report import run_and_report
from diffusion_lab.commands.checkpoint import main as checkpoint_command
from diffusion_lab.console.terminal import printable, resilient_stderr
from diffusion_lab.runs.log import RUN_LOG, log_to_file
from diffusion_lab.training.console import print_line
from diffusion_lab.training.mirror import warn
from tests.training.tiny import tiny_config, tiny_denoiser, tiny_run

ESCAPE = "\x1b]0;owned\x07\x1b[2J"


@pytest.mark.parametrize("text", [ESCAPE, "\x9b2J", "a\rb", "\u202egnp", "\udcff", "\x00"])
def test_control_characters_are_escaped(text: str) -> None:
    assert printable(text).isprintable()


def test_letters_and_lines_stay() -> None:
    assert printable("Blüte 花\n\tй") == "Blüte 花\n\tй"


@pytest.mark.parametrize("command", ["inspect", "verify", "export"])
def test_names_of_checkpoints(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = tmp_path / ESCAPE / "step_00000001.ckpt"
    assert checkpoint_command([command, str(missing)]) != 0
    weights = tmp_path / f"{ESCAPE}.ckpt"
    torch.save({"state_dict": {ESCAPE: torch.zeros(1)}, ESCAPE: 1}, weights)
    checkpoint_command([command, str(weights)])
    output = "".join(capsys.readouterr())
    assert "owned" in output
    assert "\x1b" not in output
    assert "\x07" not in output


def test_checkpoint_with_escape_codes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = {
        "state_dict": {f"denoiser.{name}": value for name, value in tiny_denoiser().state_dict().items()},
        "diffusion_lab": {
            "format": 1,
            "config": tiny_config(tmp_path).model_dump(mode="json"),
            "class_names": [ESCAPE, "b", "c"],
            "step": 1,
            "config_hash": ESCAPE,
            "environment": {"git_commit": ESCAPE, "packages": {ESCAPE: ESCAPE}},
        },
    }
    torch.save(content, tmp_path / "escapes.ckpt")
    assert checkpoint_command(["inspect", str(tmp_path / "escapes.ckpt")]) == 0
    output = "".join(capsys.readouterr())
    assert output.count("owned") >= 3
    assert "\x1b" not in output


@pytest.mark.parametrize("environment", [["a list"], "text", None, {"packages": ["a list"]}, {"packages": None}])
def test_strange_environment_in_a_checkpoint(
    environment: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = {
        "state_dict": {f"denoiser.{name}": value for name, value in tiny_denoiser().state_dict().items()},
        "diffusion_lab": {
            "format": 1,
            "config": tiny_config(tmp_path).model_dump(mode="json"),
            "class_names": ["a", "b", "c"],
            "step": 1,
            "environment": environment,
        },
    }
    torch.save(content, tmp_path / "strange.ckpt")
    for command in ("inspect", "export"):
        code = checkpoint_command([command, str(tmp_path / "strange.ckpt")])
        output = capsys.readouterr().err
        assert (code, output) == (0, "") or (code == 2 and "diffusion_lab.environment" in output)


def test_errors_and_warnings_of_a_program(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        warnings.warn(ESCAPE, stacklevel=1)
        raise ValueError(f"{ESCAPE} is wrong")

    with warnings.catch_warnings(action="always"), pytest.raises(SystemExit):
        run_and_report(fail)
    output = capsys.readouterr().err
    assert output.count("owned") >= 2
    assert "\x1b" not in output


def test_output_and_log_of_a_run(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=500)
    with log_to_file(tmp_path / "run.log"):
        print_line(console, ESCAPE)
        warn(console, ESCAPE)
        logging.getLogger(RUN_LOG).error(ESCAPE)
    for output in (console.file.getvalue(), (tmp_path / "run.log").read_text()):  # type: ignore[attr-defined]
        assert output.count("owned") == 2
        assert "\x1b" not in output


def test_run_folder_with_escape_codes(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=500)
    tiny_run(tmp_path / ESCAPE, {"training.epochs": 1}, console)
    assert "\x1b" not in console.file.getvalue()  # type: ignore[attr-defined]


class TestResilientStderr:
    def test_writable_output_is_written(self, capsys: pytest.CaptureFixture[str]) -> None:
        with resilient_stderr(), resilient_stderr():
            print("heard", file=sys.stderr)
            Console(stderr=True).print("loud and clear")
        assert capsys.readouterr().err == "heard\nloud and clear\n"

    def test_unwritable_output_is_dropped(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Full(io.StringIO):
            def write(self, text: str) -> int:
                raise OSError(28, "No space left on device")

            def flush(self) -> None:
                raise OSError(28, "No space left on device")

        monkeypatch.setattr(sys, "stderr", Full())
        with resilient_stderr():
            print("lost", file=sys.stderr, flush=True)
            Console(stderr=True).print("lost")
            warnings.warn("lost", stacklevel=1)
