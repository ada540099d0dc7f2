"""The files of examples/ are shown in the docs as they are, and work together."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
import torch

from tests.docs.blocks import ROOT, blocks
from tests.programs import Program, shared_launcher

EXAMPLES = ROOT / "examples"
FILES = sorted(file for file in EXAMPLES.rglob("*.*") if file.suffix in (".py", ".yaml") and file.stem != "__init__")
SHOWN = {block.example: block for block in blocks() if block.example is not None}
CLASSES = [file for file in FILES if file.parent != EXAMPLES]
CHOICES = [f"{file.parent.name}={file.stem}" for file in CLASSES if file.suffix == ".yaml"]


@pytest.mark.parametrize("file", CLASSES, ids=lambda file: file.name)
def test_the_docs_show_the_file(file: Path) -> None:
    path = file.relative_to(ROOT).as_posix()
    assert path in SHOWN, f"docs/extending.md shows no block that starts with '# {path}'"
    assert SHOWN[path].text == f"# {path}\n{file.read_text(encoding='utf-8')}"


def test_the_docs_show_no_other_file() -> None:
    assert SHOWN.keys() == {file.relative_to(ROOT).as_posix() for file in CLASSES}


def test_the_readme_lists_every_file() -> None:
    text = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert all(f"`{choice}`" in text for choice in CHOICES)
    assert all(f"]({file.relative_to(EXAMPLES)})" in text for file in FILES if file.suffix == ".py")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a short run that uses all the examples at once."""
    folder = tmp_path_factory.mktemp("examples")
    command = ("--config-dir", str(EXAMPLES / "conf"), "experiment=fast_debug", *CHOICES, "output.base_dir=run")
    program = Program(shared_launcher(), (str(ROOT / "train.py"), *command), folder, {})
    assert program.wait() == 0, program.err[-3000:]
    return folder / "run"


def test_a_run_uses_all_of_them(run: Path) -> None:
    selected = {
        path for file in CLASSES if file.suffix == ".yaml" for path in re.findall(r"my_lab[\w.]+", file.read_text())
    }
    settings = (run / "config.yaml").read_text(encoding="utf-8")
    assert len(selected) >= len(CHOICES)
    assert all(path in settings for path in selected)
    metrics = (run / "logs/metrics.jsonl").read_text(encoding="utf-8")
    assert metrics.count('"contrast"') == metrics.count('"sharpness"') == 2  # of each epoch
    table = (run / "logs/table.tsv").read_text(encoding="utf-8")
    assert table.count("\tcontrast\t") == 2


def test_the_noise_process_inverts_its_levels() -> None:
    schedule = imported(EXAMPLES / "my_lab/schedules.py").TrigFlowSchedule()
    times = torch.linspace(0.001, 0.999, 50, dtype=torch.float64)
    levels = schedule.levels(times)
    torch.testing.assert_close(levels.alpha**2 + levels.sigma**2, torch.ones_like(times))
    torch.testing.assert_close(schedule.times(2 * (levels.alpha / levels.sigma).log()), times)
    assert schedule.times(torch.tensor([float("-inf"), float("inf")])).tolist() == [1, 0]


def test_the_optimizer_steps_by_the_sign_of_the_average() -> None:
    """By hand: averages of the gradients 1 and -1 with betas 0.5 and 0.75, learning rate 0.1."""
    weight = torch.nn.Parameter(torch.tensor([2.0]))
    optimizer = imported(EXAMPLES / "my_lab/optim.py").Lion([weight], lr=0.1, betas=(0.5, 0.75), weight_decay=0.5)
    for gradient, expected in ((1.0, 0.95 * 2 - 0.1), (-1.0, 0.95 * 1.8 + 0.1)):
        weight.grad = torch.tensor([gradient])
        optimizer.step()
        torch.testing.assert_close(weight.data, torch.tensor([expected]))
    assert optimizer.state[weight]["average"].item() == 0.75 * 0.25 - 0.25


def test_the_learning_rate_falls_to_zero_at_the_end() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = imported(EXAMPLES / "my_lab/lr_schedules.py").CooldownLR(optimizer, total_steps=10, fraction=0.4)
    rates = []
    for _ in range(11):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert rates == [2.0] * 7 + [1.5, 1.0, 0.5, 0.0]


def imported(file: Path) -> ModuleType:
    """Import a file of examples/, which is no package of the project."""
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
