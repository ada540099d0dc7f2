"""Every command that a program prints works in the folder where it was printed."""

from __future__ import annotations

import io
import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hydra import compose
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig
from rich.console import Console

from diffusion_lab.__main__ import main
from diffusion_lab.checkpoint import find_checkpoint
from diffusion_lab.cli.compose import compose_generate_config, compose_train_config
from diffusion_lab.cli.compose_evaluation import compose_evaluate_config
from diffusion_lab.cli.hydra_app import initialized_hydra
from diffusion_lab.cli.settings_file import read_settings
from diffusion_lab.console.command_line import usage
from diffusion_lab.runs.folder import RunFolder, RunStopped
from diffusion_lab.training.console import print_stopped
from tests.commands.conftest import ROOT, pasted, printed_commands, succeeds
from tests.training.tiny import tiny_config, tiny_run

pytestmark = pytest.mark.integration

AWKWARD = "my runs (lr=1e-3)/größe's {best}, ${x}"
"""Folder name with characters that are special to the shell, Hydra and OmegaConf."""

QUICK = ("num_samples=20", "sampler.steps=1", "features=pixels", "metrics=[kid]", "device=cpu")
"""Options of a fast evaluation."""


def test_commands_printed_by_a_run_work(tmp_path: Path) -> None:
    """With the default sampler: 50 steps, where the process of this recipe has 20."""
    folder = tmp_path / "here"
    folder.mkdir()
    where = AWKWARD.replace("${", "\\${")
    done = succeeds(folder, "train.py", "experiment=fast_debug", "training.epochs=1", f'output.base_dir="{where}"')
    assert (folder / AWKWARD / "summary.json").is_file()
    sampling, evaluating = printed_commands(done.stderr)
    assert "100 images in outputs/generated/" in pasted(folder, sampling).stdout
    assert Path(evaluating[1]).name == "evaluate.py"
    shown = pasted(folder, [*evaluating, *QUICK]).stdout
    assert f"{AWKWARD}/evaluation/evaluation.json" in shown


def test_commands_printed_by_a_sweep_use_its_best_job(tmp_path: Path) -> None:
    sweep = "hydra.sweep.dir='sweeps/two (of 2)'"
    done = succeeds(tmp_path, "train.py", "-m", "experiment=fast_debug", "training.epochs=1,2", sweep)
    *of_the_jobs, words, evaluating = printed_commands(done.stderr)
    assert len(of_the_jobs) == 4, "two of each job"
    assert words[2:] == evaluating[2:] == ['ckpt="sweeps/two (of 2)"']
    made = pasted(tmp_path, [*words, "num_samples=10"])
    best = re.search(r"│ 1 +│ training.epochs=(\d)", done.stderr)
    assert best is not None
    assert f"checkpoint: sweeps/two (of 2)/epochs-{best[1]}/checkpoints/best.ckpt (the best job of" in made.stderr
    assert "10 images in" in made.stdout
    assert "evaluate all finished jobs: " in done.stderr
    assert "epochs-1" in pasted(tmp_path, [*evaluating, *QUICK]).stdout


def test_command_printed_by_a_stopped_run_resumes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path(AWKWARD)
    tiny_run(folder, {"training.epochs": 1})
    output = io.StringIO()
    reset = {
        "training.resume": {"enabled": True, "checkpoint": "auto", "reset_optimizer": True, "reset_scheduler": False}
    }
    config = tiny_config(folder, reset)
    stop = RunStopped("asked to by SIGTERM", 143, 3)
    print_stopped(Console(file=output, width=80), RunFolder.from_settings(config.output), stop, config.training.resume)
    (words,) = printed_commands(output.getvalue())
    assert words[1:3] == ["-m", "diffusion_lab"]
    assert words[-1] == "training.resume.reset_optimizer=false", "what a run resets at its start is not reset again"
    main([*words[3:], "training.epochs=2"])
    steps = [json.loads(line)["step"] for line in (folder / "logs/metrics.jsonl").read_text().splitlines()]
    assert sorted(set(steps)) == list(range(6)), "three steps per epoch"
    assert not (folder / "outputs").exists()


def test_no_command_is_printed_before_the_folder_exists(tmp_path: Path) -> None:
    output = io.StringIO()
    config = tiny_config(tmp_path / "none")
    stop = RunStopped("asked to by SIGINT", 130, None)
    print_stopped(Console(file=output), RunFolder.from_settings(config.output), stop, config.training.resume)
    assert not printed_commands(output.getvalue())


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return values for the placeholders of the help texts."""
    top = tmp_path_factory.mktemp("filled")
    tiny_run(top / "run", {"training.epochs": 1})
    last = find_checkpoint(top / "run", "last")
    (top / "my images (1)").mkdir()
    return {
        "outputs/digits/RUN": str(top / "run"),
        "RUN_FOLDER": str(top / "run"),
        "PATH": str(last),
        "old.pt": str(last),
        "DIR": str(top),
        "my images (1)": str(top / "my images (1)"),
        "my runs (1)": str(top / "run"),
        "GROUP=NAME": "model=unet_small",
        "key=value": "compute.seed=1",
    }


def help_text(script: str) -> str:
    """Return the text of ``--help`` without the lists of groups."""
    template: str = yaml.safe_load((ROOT / "conf" / f"{script}.yaml").read_text())["hydra"]["help"]["template"]
    return re.sub(r"\$\{usage:(\w+)}", lambda match: usage(match[1]), template)


def helped(script: str) -> list[list[str]]:
    commands = printed_commands(help_text(script))
    assert len(commands) > 5
    return commands


@pytest.mark.parametrize("script", ["train", "sample", "evaluate"])
def test_commands_of_help_are_valid(script: str, filled: dict[str, str]) -> None:
    checks: dict[str, Callable[[DictConfig], object]] = {
        "train.py": compose_train_config,
        "sample.py": compose_generate_config,
        "evaluate.py": compose_evaluate_config,
    }
    for words in helped(script):
        for placeholder, meaning in filled.items():
            words = [word.replace(placeholder, meaning) for word in words if word != "..."]
        program, arguments = words[1], [word for word in words[2:] if word != "-m"]
        if program == "-m":
            read_settings(Path(words[3]), words[4:])
        else:
            parsed = OverridesParser.create().parse_overrides(arguments)
            pairs = zip(arguments, parsed, strict=True)
            one = [word.split(",")[0] if each.is_sweep_override() else word for word, each in pairs]  # the first job
            with initialized_hydra("app", ROOT / "conf"):
                checks[program](compose(program.removesuffix(".py"), one))


def test_resume_command_of_help_works_for_a_run_with_other_settings(tmp_path: Path) -> None:
    tiny_run(tmp_path, {"training.epochs": 1})
    (words,) = [words for words in helped("train") if words[1] == "-m"]
    main([*(word.replace("RUN_FOLDER", str(tmp_path)) for word in words[3:]), "training.epochs=2"])
    assert json.loads((tmp_path / "summary.json").read_text())["epochs"] == 2


@pytest.mark.parametrize("script", ["train", "sample", "evaluate"])
def test_commands_of_help_contain_nothing_that_a_shell_expands(script: str) -> None:
    lines = [line for line in help_text(script).splitlines() if line.strip().startswith("python ")]
    assert len(lines) > 5
    for line in lines:
        plain = shlex.shlex(line.partition(" # ")[0], posix=False)
        plain.whitespace_split = True
        assert not [word for word in plain if "'" not in word and set(word) & set("[]{}()*?$~")]
