"""The sampler and the optimizer that docs/extending.md adds to the project, added to a copy of it as described."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("benchmarks", "conf", "diffusion_lab", "docs", "schema", "scripts", "tests")
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
SAMPLER = PAGE.partition("\n## A sampler\n")[2].partition("\n## ")[0]
OPTIMIZER = PAGE.partition("\n## An optimizer\n")[2].partition("\n## ")[0]
CHECKED = (
    "tests/cli/test_compose.py::test_each_value_and_each_file_has_a_comment",
    "tests/scripts/test_editor_schema.py::TestFilesOfConf",
    "tests/scripts/test_editor_schema.py::test_files_are_current",
    "tests/scripts/test_reference.py",
    "tests/samplers/test_exact_answers.py::test_every_sampler_has_its_order_tested",
    "tests/samplers/test_exact_answers.py::test_the_ode_error_falls_with_the_order_of_the_method",
    "tests/training/test_optimizers.py::test_every_argument_of_the_torch_class_is_a_setting",
    "tests/benchmarks/test_samplers.py::test_the_page_shows_files_of_the_group_and_their_grids",
)
"""Tests of the files of conf/ and of the table of samplers."""


def entry(table: str) -> str:
    """Return the line that the recipe adds to a table of the project, such as `"trapezoid": 2`."""
    (code,) = re.findall(rf"`{table}` of `[\w/.]+`\s\(`([^`]+)`\)", SAMPLER)
    return str(code)


def insert(path: Path, behind: str, line: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count(behind) == 1
    path.write_text(text.replace(behind, f"{behind}{line}\n"), encoding="utf-8")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy of the project with both parts added, schemas and reference regenerated, and a run in `run`."""
    folder = tmp_path_factory.mktemp("project")
    for name in COPIED:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    for name in ("train.py", "sample.py", "evaluate.py", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, folder / name)
    add_sampler(folder)
    add_optimizer(folder)
    for script in ("make_schema", "make_docs"):
        runs(folder, f"scripts/{script}.py")
    added = ("sampler=trapezoid", "optimizer=radam")
    runs(folder, "train.py", "experiment=fast_debug", *added, "logger=none", "output.base_dir=run")
    return folder


def add_sampler(project: Path) -> None:
    samplers = project / "diffusion_lab" / "samplers"
    shutil.copy(ROOT / "examples/my_lab/samplers.py", samplers / "trapezoid.py")
    package, *settings = (ROOT / "examples/conf/sampler/trapezoid.yaml").read_text(encoding="utf-8").splitlines()
    schema = (project / "conf/sampler/heun.yaml").read_text(encoding="utf-8").splitlines()[1]
    text = "\n".join([package, schema, *settings, ""]).replace("my_lab.samplers.TrapezoidSampler", "trapezoid")
    (project / "conf/sampler/trapezoid.yaml").write_text(text, encoding="utf-8")
    imported = "from diffusion_lab.samplers.trapezoid import TrapezoidSampler"
    insert(samplers / "__init__.py", "from diffusion_lab.samplers.heun import HeunSampler\n", imported)
    insert(samplers / "__init__.py", '    "unipc": UniPCSampler,\n', f"    {entry('SAMPLERS')},")
    insert(project / "tests/samplers/test_exact_answers.py", '    "unipc": 3,\n', f"    {entry('ODE_ORDERS')},")


def add_optimizer(project: Path) -> None:
    (line,) = re.findall(r"the line `([^`]+)` in `OPTIMIZERS`", OPTIMIZER)
    insert(project / "diffusion_lab/training/optimizers.py", '    "adamw": torch.optim.AdamW,\n', f"    {line},")
    (options,) = re.findall(r'`("radam": \([^`]+\))`, in `OPTIMIZER_OPTIONS`', OPTIMIZER)
    insert(project / "diffusion_lab/config/optimizer_section.py", '    "adamw": OF_EVERY_ADAM,\n', f"    {options},")
    copied = (project / "conf/optimizer/adamw.yaml").read_text(encoding="utf-8")
    (project / "conf/optimizer/radam.yaml").write_text(copied.replace("type: adamw", "type: radam"), encoding="utf-8")


def test_added_parts_meet_the_requirements_for_those_of_the_project(project: Path) -> None:
    selected = "trapezoid or radam or current or order_tested or page"
    runs(project, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-k", selected, *CHECKED)


def test_the_run_used_the_added_optimizer_and_sampler(project: Path) -> None:
    config = (project / "run" / "config.yaml").read_text(encoding="utf-8")
    assert {"type: radam", "type: trapezoid"} <= {line.strip() for line in config.splitlines()}


def test_images_are_made_by_the_added_sampler(project: Path) -> None:
    runs(project, "sample.py", "ckpt=run", "sampler=trapezoid", "num_samples=2", "output.base_dir=made")
    (manifest,) = (project / "made").rglob("manifest.jsonl")
    assert '"sampler": "trapezoid"' in manifest.read_text()


def runs(project: Path, *command: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(project), "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("PYTEST_XDIST_WORKER", None)
    done = subprocess.run(
        [sys.executable, *command], cwd=project, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
