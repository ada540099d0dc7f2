"""scripts/migrate_config_v1_to_v2.py on the command line."""

from __future__ import annotations

import doctest
import os
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from diffusion_lab.cli import yaml_file
from diffusion_lab.cli.yaml_file import read_yaml, write_new, yaml_text
from diffusion_lab.config import get_default_config, migrate_config_v1_to_v2
from diffusion_lab.v1.migration import V1_IS_DEPRECATED

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "migrate_config_v1_to_v2.py"
FIXTURES = ROOT / "tests" / "fixtures" / "configs" / "diffusion"


@dataclass(frozen=True)
class Outcome:
    returncode: int
    stdout: str
    stderr: str


Call = Callable[..., Outcome]
DEPRECATED = f"Warning: {V1_IS_DEPRECATED}.\n"


def run(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the script in a folder, as from a checkout without installation."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run the script in tmp_path, in this process, which is faster."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> Outcome:
        code = runpy.run_path(str(SCRIPT))["main"](arguments)
        output = capsys.readouterr()
        return Outcome(code, output.out, output.err)

    return call


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """Create a V1 file in a folder with the images and the checkpoint that it names."""
    file = tmp_path / "old.yaml"
    shutil.copy(FIXTURES / "v1_full.yaml", file)
    for folder in ("flowers/train", "flowers/val", "runs/flowers/ckpt/best.ckpt"):
        (tmp_path / folder).mkdir(parents=True)
    return file


def test_prints_v2(old: Path, call: Call) -> None:
    for arguments in ([], ["--output", "new.yaml", "--dry-run"]):
        result = call("--input", "old.yaml", *arguments)
        assert (result.returncode, result.stderr) == (0, DEPRECATED)
        assert yaml.safe_load(result.stdout) == migrate_config_v1_to_v2(read_yaml(old))
        assert result.stdout.startswith("# V2, migrated from old.yaml")
        assert "\n    eta_min: 1.0e-05\n" in result.stdout
    assert sorted(file.name for file in old.parent.iterdir()) == ["flowers", "old.yaml", "runs"]


def test_writes_v2(old: Path) -> None:
    result = run(old.parent, "--input", "old.yaml", "--output", "new.yaml")
    assert (result.returncode, result.stdout) == (0, "")
    assert read_yaml(old.parent / "new.yaml") == migrate_config_v1_to_v2(read_yaml(old))
    assert sorted(file.name for file in old.parent.iterdir()) == ["flowers", "new.yaml", "old.yaml", "runs"]


def test_an_existing_file_is_replaced_only_by_force(old: Path, call: Call) -> None:
    new = old.with_name("new.yaml")
    new.write_text("mine")
    refused = call("--input", "old.yaml", "--output", "new.yaml")
    assert refused.returncode == 1
    assert refused.stderr == DEPRECATED + "Error: new.yaml exists: --force overwrites it.\n"
    assert new.read_text() == "mine"
    assert call("--input", "old.yaml", "--output", "new.yaml", "--force").returncode == 0
    assert yaml.safe_load(new.read_text())["experiment"] == "flowers"


@pytest.mark.parametrize("name", ["old.yaml", "link.yaml", "hard.yaml"])
def test_input_is_not_overwritten_even_by_force(old: Path, call: Call, name: str) -> None:
    before = old.read_bytes()
    old.with_name("link.yaml").symlink_to(old)
    old.with_name("hard.yaml").hardlink_to(old)
    result = call("--input", "old.yaml", "--output", name, "--force")
    assert result.returncode == 1
    assert (
        result.stderr == f"{DEPRECATED}Error: {name} is the input, which is not overwritten: choose another --output.\n"
    )
    assert old.read_bytes() == before


BAD_INPUTS = {
    "missing": (None, "bad.yaml does not exist"),
    "broken": ("a: [1\nb: }", "bad.yaml is not valid YAML: while parsing"),
    "twice": ("device: cpu\ndevice: cuda\n", "bad.yaml is not valid YAML: while constructing a mapping"),
    "binary": (b"\xff\xfe\x00\x80", "bad.yaml is not valid YAML: "),
    "empty": ("", "bad.yaml contains no settings: a mapping of keys to values is expected"),
    "list": ("[1, 2]", "bad.yaml contains no settings: a mapping"),
    "number": ("3", "bad.yaml contains no settings: a mapping"),
    "text": ("hello", "bad.yaml is not a V1 file: it lacks the keys of V1"),
    "stranger": ("name: x\nversion: 3\n", "bad.yaml is not a V1 file: it lacks the keys of V1"),
    "mixture": ("device: cpu\ncompute: {}\n", "bad.yaml is not a V1 file: "),
    "V2": (yaml_text(get_default_config()), "bad.yaml is not a V1 file: it is already V2"),
    "reference": ("device: ${nowhere}\n", "bad.yaml has a reference that cannot be resolved: "),
    "contradiction": ("data: {image_size: 3}\n", "1 setting is wrong:\n  data.image_size = 3: must be 40"),
}


@pytest.mark.parametrize(("content", "message"), BAD_INPUTS.values(), ids=BAD_INPUTS)
def test_bad_input_ends_with_one_clear_line(
    tmp_path: Path, call: Call, content: str | bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / "bad.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    result = call("--input", "bad.yaml", "--output", "new.yaml")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith(f"Error: {message}")
    assert result.stderr.count("\n") == 1 + message.count("\n")
    assert not (tmp_path / "new.yaml").exists()


def test_folder_as_input(call: Call) -> None:
    result = call("--input", ".")
    assert (result.returncode, result.stdout) == (1, "")
    assert "is not a regular file: pass a settings file" in result.stderr


def test_the_script_runs_as_a_process(old: Path) -> None:
    result = run(old.parent, "--input", "nothing.yaml", "--output", "new.yaml")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == "Error: nothing.yaml does not exist.\n"


def test_dropped_keys_and_faults_are_reported(tmp_path: Path, call: Call) -> None:
    (tmp_path / "old.yaml").write_text("device: gpu\nlearning_rate: 1.0\n")
    result = call("--input", "old.yaml", "--output", "new.yaml")
    assert result.returncode == 0
    assert (tmp_path / "new.yaml").is_file()
    assert "Warning: not all of V1 is in V2:\n  learning_rate = 1.0: not a V1 key, left out" in result.stderr
    assert 'compute.device = "gpu": must be' in result.stderr
    assert "data.paths.train" not in result.stderr  # asked for where it runs


def test_to_overrides_composes_to_the_file(old: Path) -> None:
    """The command printed for a file reproduces the settings of the file."""
    old.write_text(old.read_text().replace("experiment: flowers", "experiment: diffusion"))
    result = run(old.parent, "--input", "old.yaml", "--to-overrides")
    assert (result.returncode, result.stderr) == (0, DEPRECATED)
    _, script, *overrides = shlex.split(result.stdout)
    assert Path(script).name == "train.py"
    shown = subprocess.run(
        [sys.executable, str(ROOT / script), *overrides, "--cfg", "job", "--resolve"],
        cwd=old.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    v2 = migrate_config_v1_to_v2(read_yaml(old))
    assert within(yaml.safe_load(shown.stdout), v2) == v2


def within(tree: dict[str, Any], pattern: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a tree with the keys of another; schedulers and optimizers completely."""
    whole = ("optimizer", "scheduler")
    return {
        key: within(tree[key], value) if isinstance(value, dict) and key not in whole else tree[key]
        for key, value in pattern.items()
    }


def test_to_overrides_accepts_v2_for_generation(tmp_path: Path, call: Call) -> None:
    tree = get_default_config() | {"mode": "generate"}
    tree["generation"]["checkpoint"] = "."
    (tmp_path / "v2.yaml").write_text(yaml_text(tree))
    result = call("--input", "v2.yaml", "--to-overrides")
    assert result.returncode == 0, result.stderr
    assert shlex.split(result.stdout)[1].endswith("sample.py")
    assert " ckpt=. " in result.stdout


def test_to_overrides_of_a_file_with_faults(tmp_path: Path, call: Call) -> None:
    (tmp_path / "old.yaml").write_text("device: gpu\n")
    result = call("--input", "old.yaml", "--to-overrides")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith(f"{DEPRECATED}Error: 2 settings are wrong:\n  compute.device = ")


def test_to_overrides_prints_only(tmp_path: Path) -> None:
    result = run(tmp_path, "--input", "a.yaml", "--output", "b.yaml", "--to-overrides")
    assert result.returncode == 2
    assert "--to-overrides prints, so it cannot be used with --output" in result.stderr


@pytest.mark.parametrize(
    ("output", "message"), [("no/new.yaml", "is not a folder"), ("folder", "is not a regular file")]
)
def test_an_output_that_cannot_be_written(tmp_path: Path, output: str, message: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match=message):
        write_new(tmp_path / output, "text", tmp_path / "source", force=True)
    assert [file.name for file in tmp_path.iterdir()] == ["folder"]


def test_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, source = tmp_path / "new.yaml", tmp_path / "source.yaml"
    file.write_text("before")
    source.write_text("")

    def full(*_: object, **__: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        write_new(file, "after", source, force=True)
    assert file.read_text() == "before"
    assert sorted(tmp_path.iterdir()) == [file, source]


def test_examples_in_docstrings() -> None:
    result = doctest.testmod(yaml_file)
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize(
    "text", ["1e-6", "1.0e-6", "on", "null", "~", "12:30", "0x1f", "nan", "2026-01-01", "a: b", "", "é", "a\nb", " x"]
)
def test_strings_stay_strings(tmp_path: Path, text: str) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(yaml_text({"experiment": text, "training": {"list": [text]}}), encoding="utf-8")
    for tree in (read_yaml(file), yaml.safe_load(file.read_text(encoding="utf-8"))):
        assert tree == {"experiment": text, "training": {"list": [text]}}


@pytest.mark.parametrize("number", [1e-6, 1e-10, 1e20, 0.1, 3, 1e-5, 123456.789, 2.0])
def test_number_stays_the_same_number(tmp_path: Path, number: float) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(yaml_text({"value": number}))
    for tree in (read_yaml(file), yaml.safe_load(file.read_text())):
        assert tree == {"value": number}
        assert type(tree["value"]) is type(number)
