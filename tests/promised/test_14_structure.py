"""The minimal file, the structure of V2 that the README links to, and the end-to-end tests behind one marker."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest
import yaml

from diffusion_lab.config import get_default_config, validate_config
from tests.commands.conftest import SMALL, succeeds
from tests.docs.blocks import ROOT, blocks

MINIMAL = ROOT / "tests/fixtures/configs/diffusion_minimal.yaml"


def test_the_minimal_file_is_a_valid_v2_tree() -> None:
    tree = yaml.safe_load(MINIMAL.read_text())
    validate_config(tree)
    assert tree["mode"] == "train"


@pytest.mark.integration
def test_train_sample_resume_sweep(tmp_path: Path) -> None:
    """Train the minimal file, sample, resume for more epochs, and run the jobs of a sweep."""
    file, run = str(MINIMAL), tmp_path / "run"
    trained = succeeds(tmp_path, "-m", "diffusion_lab", file, f"output.base_dir={run}")
    assert "diffusion   cosine, 20 timesteps, predicts epsilon" in trained.stderr
    summary = json.loads((run / "summary.json").read_text())
    assert Path(summary["best_checkpoint"]).exists()

    succeeds(tmp_path, "sample.py", f"ckpt={run}", "num_samples=3", "device=cpu", f"output.base_dir={tmp_path / 'out'}")
    assert len(list((tmp_path / "out").rglob("sample_*.png"))) == 3

    longer = ("training.epochs=2", "training.resume.enabled=true", "training.resume.checkpoint=auto")
    resumed = succeeds(tmp_path, "-m", "diffusion_lab", file, f"output.base_dir={run}", *longer)
    assert f"{summary['steps']} steps and 1 epoch done" in resumed.stderr
    assert json.loads((run / "summary.json").read_text())["steps"] == 2 * summary["steps"]

    jobs = ("training.optimizer.learning_rate=1e-3,1e-4", "training.epochs=1", f"hydra.sweep.dir={tmp_path / 'sweep'}")
    small = [word for word in SMALL if not word.startswith("training.epochs")]
    succeeds(tmp_path, "train.py", "-m", *small, *jobs)
    ranked = json.loads((tmp_path / "sweep/sweep.json").read_text())
    assert sorted(job["rank"] for job in ranked) == [1, 2]


def test_the_marker_selects_only_end_to_end_tests() -> None:
    """Each module with the marker starts the real programs, and all four commands are covered."""
    marked = {
        path.relative_to(ROOT / "tests").as_posix(): path.read_text()
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        if "mark.integration" in path.read_text()
    }
    assert {
        "commands/test_train.py",
        "commands/test_sample.py",
        "commands/test_main.py",
        "faults/test_stopped_runs.py",
        "faults/test_sweep.py",
    } <= marked.keys()
    for name, text in marked.items():
        used = {node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)}
        assert used & {"command", "succeeds", "start", "Start", "launcher"}, name


def test_the_structure_that_the_readme_links_to_is_the_default_tree() -> None:
    assert "(docs/settings.md#structure-of-a-v2-file)" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert "\n## Structure of a V2 file\n" in (ROOT / "docs/settings.md").read_text(encoding="utf-8")
    (block,) = [each for each in blocks() if each.page == "docs/settings.md" and each.text.startswith("experiment:")]
    assert yaml.safe_load(block.text) == get_default_config()
    for line in block.text.splitlines():
        assert not line or re.search(r":$|\S # \S", line), f"no comment: {line}"
    complete = (ROOT / "conf/standalone/default.yaml").read_text()
    assert complete.endswith(block.text), "change docs/settings.md and conf/standalone/default.yaml together"
