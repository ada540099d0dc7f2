"""Every block of README and docs: commands run, code runs, output is as shown.

They run in a copy of the project, with a small network and one epoch instead of the documented ones, which still
detects an unknown key or group, a missing file, or a combination that is refused.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.docs.blocks import ROOT, Block, blocks
from tests.programs import Launcher, Program

BLOCKS = blocks()
FIRST_BLOCKS: dict[tuple[str, ...], Block] = {}
"""Each command, once, and the first block that contains it."""
for each in BLOCKS:
    for words in each.commands:
        FIRST_BLOCKS.setdefault(tuple(words), each)
COMMANDS = [
    pytest.param(list(words), id=f"{block.place} {' '.join(words)}"[:90]) for words, block in FIRST_BLOCKS.items()
]
COPIED = ("diffusion_lab", "conf", "schema", "docs", "scripts", "tests", "train.py", "sample.py", "evaluate.py")
COPIED += ("pyproject.toml",)
SMALL = (
    "compute.device=cpu",
    "logger=none",
    "model.architecture.model_channels=8",
    "model.architecture.num_res_blocks=1",
    "data.loading.batch_size=512",
    "training.visualization.interval=1",
    "sampler.steps=2",
)
OLD = """
experiment: flowers
mode: train
device: cpu
seed: 0
model: {image_size: 16, in_channels: 3, model_channels: 8, channel_multipliers: [1, 2], use_attention: [false, true]}
data: {train_path: flowers, val_path: null, batch_size: 8, num_workers: 0, pin_memory: false}
training: {epochs: 1, optimizer: adamw, learning_rate: 0.001, checkpoint_dir: outputs/old/checkpoints}
"""
"""A complete file in the V1 format, of a run of seconds."""
FEW = ("device=cpu", "num_samples=3", "output.base_dir=outputs/from_docs")
FEW_MEASURED = ("device=cpu", "num_samples=20", "metrics=[kid,precision_recall]", "output.base_dir=outputs/measured")
SEARCH = "hydra/sweeper=optuna"
CONFIGURATION = "docs/configuration.md"  # written by scripts/make_docs.py; tests/config/test_reference.py holds it
GUIDE = "docs/migration-v1-to-v2.md"  # its pairs of files are held by tests/config/test_migration_guide.py


@dataclass
class World:
    """A copy of the project with what the pages take for granted: pictures, a trained model, old settings."""

    folder: Path
    launcher: Launcher

    def start(self, *program: str) -> Program:
        return Program(self.launcher, program, self.folder, {})

    def succeeds(self, *program: str) -> Program:
        started = self.start(*program)
        assert started.wait() == 0, f"{shlex.join(program)}\n{started.err[-3000:]}"
        return started


def copy_of_the_project(folder: Path) -> Path:
    for name in COPIED:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "outputs")
            shutil.copytree(ROOT / name, folder / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, folder / name)
    return folder


def add_what_pages_take_for_granted(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for kind in ("rose", "tulip"):
        (folder / "flowers" / kind).mkdir(parents=True)
        for number in range(12):
            pixels = rng.integers(0, 256, (70, 90, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "flowers" / kind / f"{number}.png")
    (folder / "OLD.yaml").write_text(OLD, encoding="utf-8")
    shutil.copy(ROOT / "conf/standalone/default.yaml", folder / "MINE.yaml")
    (folder / "data" / "train").mkdir(parents=True)
    for block in BLOCKS:
        if block.adds is not None:
            file = folder / block.adds
            file.parent.mkdir(exist_ok=True)
            file.write_text(block.text, encoding="utf-8")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = copy_of_the_project(tmp_path_factory.mktemp("world") / "project")
    add_what_pages_take_for_granted(folder)
    launcher = Launcher(folder / "tests" / "program_launcher.py")
    world = World(folder, launcher)
    for name, more in (("digits/RUN", ()), ("image_folder/RUN", FLOWERS), ("demo", ())):
        world.succeeds("train.py", *more, *SMALL, "training.epochs=1", f"output.base_dir=outputs/{name}")
    world.succeeds("enlarge.py", "outputs/demo", "enlarged", "3")  # which another command trains on
    yield world
    launcher.close()


FLOWERS = (
    "data=image_folder",
    "data.paths.train=flowers",
    "model.architecture.image_size=16",
    "conditioning=class",
    "model.conditioning.num_classes=2",
)


def test_every_block_is_of_a_kind_that_is_tried_here() -> None:
    """A new kind of block needs a way to be tried."""
    for block in BLOCKS:
        known = (
            block.commands
            or block.is_transcript
            or block.language in ("python", "text")  # text: an excerpt of what a program prints
            or (block.language == "yaml" and block.page in (GUIDE, CONFIGURATION))
            or (block.language == "yaml" and block.text.startswith("# @package sampler"))
            or (block.language == "yaml" and block.text.startswith("experiment:"))  # tests/promised
            or (block.language == "" and re.search(r"^\S+/ ", block.text))  # a tree of folders
        )
        assert known, f"{block.place}: no test tries this block:\n{block.text}"


@pytest.mark.parametrize("words", COMMANDS)
def test_command(world: World, words: list[str]) -> None:
    program, *rest = words
    if program == "make":
        targets = [word for word in rest if "=" not in word]
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)
    elif program == "git":
        assert rest[0] == "clone"
    elif program == "pip":
        check_installation(rest)
    else:
        assert program == "python", f"no test tries commands of {program}"
        if SEARCH in rest:
            pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="pip install -e '.[optuna]'")
        world.succeeds(*smaller([word.replace("RUN_FOLDER", "outputs/digits/RUN") for word in rest], world.folder))


def check_installation(arguments: list[str]) -> None:
    """Check that extras and constraints exist; nothing is installed."""
    command, option, project, *constraints = arguments
    extras = re.fullmatch(r"\.(?:\[([\w,]+)\])?", project)
    assert (command, option) == ("install", "-e")
    assert extras
    metadata = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set((extras[1] or "").split(",")) - {""} <= metadata["optional-dependencies"].keys()
    assert constraints in ([], ["-c", "constraints.txt"])
    assert (ROOT / "constraints.txt").is_file()


def smaller(words: list[str], folder: Path) -> list[str]:
    """The command with a small network and few images."""
    script, *rest = words
    if script == "train.py" and "compute.device=cuda" in rest:  # compiling takes minutes on a CPU
        return [script, *rest, "--cfg", "job"]
    if script == "train.py":
        multirun = [word for word in rest if word == "-m"]
        typed = [word for word in rest if word != "-m"]
        named = any(word.startswith("output.base_dir=") for word in typed) or multirun
        where = [] if named else [own_folder(words)]
        return [script, *multirun, *typed, *small_for(typed), *where]
    if script == "sample.py":
        return [script, *rest, *FEW]
    if script == "evaluate.py":
        return [script, *[shorter(word) for word in rest], *FEW_MEASURED]
    if script == "enlarge.py":
        return [script, *rest[:-1], "3"]
    if script == "scripts/migrate_config_v1_to_v2.py":
        (folder / "NEW.yaml").unlink(missing_ok=True)
    if words[:2] == ["-m", "diffusion_lab"] and "--validate" not in words:
        return [*words, *STANDALONE_SMALL, own_folder(words)]
    return words


def shorter(word: str) -> str:
    """An argument of `evaluate.py` with a list of two short walks in the place of long ones."""
    return "sampler.steps=[1,2]" if word.startswith("sampler.steps=[") else word


def own_folder(words: list[str]) -> str:
    """A folder for this command alone, whatever the others do."""
    return f"output.base_dir=outputs/command_{hashlib.sha256(shlex.join(words).encode()).hexdigest()[:12]}"


STANDALONE_SMALL = (
    *("compute.device=cpu", "training.epochs=1", "model.architecture.model_channels=8", "data.paths.train=flowers"),
    *("model.architecture.image_size=16", "data.loading.num_workers=0"),
    *("training.visualization.enabled=false", "data.loading.pin_memory=false"),
)


def small_for(typed: list[str]) -> list[str]:
    """Overrides that make a documented training short; what is swept stays as it is."""
    size = ["model.architecture.image_size=16"] if "data=image_folder" in typed else []
    trials = ["hydra.sweeper.n_trials=2"] if SEARCH in typed else []
    evaluation = ["evaluation.num_samples=20", "evaluation.sampler_steps=1"] if "evaluation=on" in typed else []
    return [*SMALL, *size, "training.epochs=1", *trials, *evaluation]


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.is_transcript], ids=lambda block: block.place)
def test_transcript(world: World, block: Block) -> None:
    """What is shown below a command is what it prints."""
    command, _, shown = block.text.removeprefix("$ ").partition("\n")
    program = world.start(*shlex.split(command)[1:])
    program.wait()
    assert (program.out + program.err).strip() == shown.strip()


SCRIPTS = [block for block in BLOCKS if block.language == "python" and block.adds is None]


@pytest.mark.parametrize("block", SCRIPTS, ids=lambda block: block.place)
def test_python(world: World, block: Block) -> None:
    (world.folder / "block.py").write_text(block.text, encoding="utf-8")
    command = [sys.executable, "block.py"]
    done = subprocess.run(command, cwd=world.folder, env=with_package_of(world.folder), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def with_package_of(folder: Path) -> dict[str, str]:
    """The environment in which Python takes the package of a copy, and not the one that is installed."""
    return {**os.environ, "PYTHONPATH": str(folder)}
