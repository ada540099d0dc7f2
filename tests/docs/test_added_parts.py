"""A class of each kind, added to a copy of the project as docs/extending.md describes: a file, a line, a YAML file."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.programs import Launcher, Program

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("benchmarks", "conf", "diffusion_lab", "docs", "schema", "scripts", "tests")
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
PLACES = {
    kind: (folder, table, Path(file), Path(conf))
    for kind, folder, table, file, conf in re.findall(
        r"\| ([\w -]+) \| `([\w/]+)/` \| `(\w+)` in `([\w/.]+)` \| `([\w/]+)/` \|", PAGE
    )
}
"""Folder of the class, table, file of the table, and folder of the YAML file, by the kind of class."""
ADDED = {
    "network": ("network.py", "model/conv_net.yaml"),
    "noise process": ("schedules.py", "diffusion/trigflow.yaml"),
    "sampler": ("samplers.py", "sampler/trapezoid.yaml"),
    "optimizer": ("optim.py", "optimizer/lion.yaml"),
    "learning-rate schedule": ("lr_schedules.py", "scheduler/cooldown.yaml"),
    "data set": ("data.py", "data/squares.yaml"),
}
"""Files of examples/my_lab and examples/conf that are added."""
CHECKED = (
    "tests/cli/test_compose.py::test_each_value_and_each_file_has_a_comment",
    "tests/scripts/test_editor_schema.py::TestFilesOfConf",
    "tests/scripts/test_editor_schema.py::test_files_are_current",
    "tests/scripts/test_reference.py",
    "tests/samplers/test_exact_answers.py::test_every_sampler_has_its_order_tested",
    "tests/samplers/test_exact_answers.py::test_the_ode_error_falls_with_the_order_of_the_method",
    "tests/benchmarks/test_samplers.py::test_the_page_shows_files_of_the_group_and_their_grids",
)
"""Tests of the files of conf/ and of the table of samplers."""


def insert(path: Path, after: str, line: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count(after) == 1, (path, after)
    path.write_text(text.replace(after, f"{after}{line}\n"), encoding="utf-8")


@dataclass
class Project:
    """Copy of the project, and the launcher of its programs."""

    folder: Path
    launcher: Launcher

    def succeeds(self, *program: str) -> None:
        started = Program(self.launcher, program, self.folder, {})
        assert started.wait(300) == 0, f"{program}\n{started.out[-3000:]}\n{started.err[-3000:]}"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """The project with the added classes, schemas and reference regenerated, and a run in `run`."""
    folder = tmp_path_factory.mktemp("project")
    for name in COPIED:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    for name in ("train.py", "sample.py", "evaluate.py", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, folder / name)
    for kind in PLACES:
        add(folder, kind)
    project = Project(folder, Launcher(folder / "tests" / "program_launcher.py"))
    for script in ("make_schema", "make_docs"):
        project.succeeds(f"scripts/{script}.py")
    added = [path.removesuffix(".yaml").replace("/", "=") for _, path in ADDED.values()]
    project.succeeds("train.py", "experiment=fast_debug", *added, "logger=none", "output.base_dir=run")
    yield project
    project.launcher.close()


def add(project: Path, kind: str) -> None:
    """Add an example as the page describes."""
    (module, settings), (folder, table, file, conf) = ADDED[kind], PLACES[kind]
    name = Path(settings).stem
    shutil.copy(ROOT / "examples/my_lab" / module, project / folder / f"{name}.py")
    text = (ROOT / "examples/conf" / settings).read_text(encoding="utf-8")
    (path,) = re.findall(r"my_lab\.\w+\.(\w+)", text)
    text = re.sub(r"my_lab\.\w+\.\w+", name, text)
    package, rest = text.split("\n", 1)
    schema = next((project / conf).glob("*.yaml")).read_text(encoding="utf-8").splitlines()[1]
    (project / conf / f"{name}.yaml").write_text(f"{package}\n{schema}\n{rest}", encoding="utf-8")
    source = (project / file).read_text(encoding="utf-8")
    (last,) = re.findall(rf"^{table}: .*?\{{\n(?:    .*\n)*?(    .*\n)\}}", source, re.MULTILINE)
    if kind == "sampler":
        imported = "from diffusion_lab.samplers.trapezoid import TrapezoidSampler"
        insert(project / file, "from diffusion_lab.samplers.heun import HeunSampler\n", imported)
        insert(project / file, last, f'    "{name}": {path},')
    else:
        insert(project / file, last, f'    "{name}": "{folder.replace("/", ".")}.{name}.{path}",')


def test_every_kind_is_added() -> None:
    assert PLACES.keys() == ADDED.keys()


def test_added_parts_meet_the_requirements_for_those_of_the_project(project: Project) -> None:
    selected = "trapezoid or current or order_tested or each_type or page_shows"
    runs(project.folder, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-k", selected, *CHECKED)


def test_the_runs_used_the_added_classes(project: Project) -> None:
    lines = (project.folder / "run" / "config.yaml").read_text(encoding="utf-8").splitlines()
    assert {f"type: {Path(settings).stem}" for _, settings in ADDED.values()} <= {line.strip() for line in lines}


def test_images_are_made_by_the_added_sampler(project: Project) -> None:
    project.succeeds("sample.py", "ckpt=run", "sampler=trapezoid", "num_samples=2", "output.base_dir=made")
    (manifest,) = (project.folder / "made").rglob("manifest.jsonl")
    assert '"sampler": "trapezoid"' in manifest.read_text()


def runs(project: Path, *command: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(project)}
    for name in ("PYTEST_XDIST_WORKER", "PYTHONDONTWRITEBYTECODE"):
        environment.pop(name, None)
    done = subprocess.run(
        [sys.executable, *command], cwd=project, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
