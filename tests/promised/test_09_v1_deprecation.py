"""V1 is deprecated: one warning that names guide, script and version, and a script that can be executed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import yaml

from diffusion_lab.__main__ import main
from diffusion_lab.config import ConfigWarning, migrate_config_v1_to_v2, validate_config

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "migrate_config_v1_to_v2.py"
OLD = {
    "experiment": "flowers",
    "mode": "train",
    "device": "cpu",
    "model": {"image_size": 16, "channel_multipliers": [1, 2], "use_attention": [False, True]},
    "data": {"train_path": "flowers", "num_workers": 0},
    "training": {"epochs": 1, "optimizer": "adamw"},
}
GUIDE, NAMED_SCRIPT = "docs/migration-v1-to-v2.md", "scripts/migrate_config_v1_to_v2.py"


def test_each_migration_warns_once_and_visibly() -> None:
    for _ in range(2):
        with warnings.catch_warnings(record=True) as caught:
            warnings.resetwarnings()  # Python's own filters would hide a DeprecationWarning
            for category in (DeprecationWarning, ResourceWarning):
                warnings.filterwarnings("ignore", category=category)
            new = migrate_config_v1_to_v2(OLD)
        (warning,) = caught
        assert issubclass(warning.category, ConfigWarning)
        assert all(word in str(warning.message) for word in ("deprecated", "version 1.0", GUIDE, NAMED_SCRIPT))
    validate_config(new)


def test_a_v1_file_that_runs_warns_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "flowers").mkdir()
    (tmp_path / "old.yaml").write_text(yaml.safe_dump(OLD))
    main(["old.yaml", "--validate"])
    printed = capsys.readouterr()
    assert printed.err.count("deprecated") == printed.err.count("Warning") == 1
    assert yaml.safe_load(printed.out)["experiment"] == "flowers"


@pytest.mark.parametrize("started", ["by python", "by itself"])
def test_the_script_writes_v2_and_warns_once(tmp_path: Path, started: str) -> None:
    (tmp_path / "old.yaml").write_text(yaml.safe_dump(OLD))
    with_environment = os.environ | {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
    command = [sys.executable, str(SCRIPT)] if started == "by python" else [str(SCRIPT)]
    done = subprocess.run(
        [*command, "-i", "old.yaml", "-o", "new.yaml"],
        cwd=tmp_path,
        env=with_environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("deprecated") == 1
    assert (GUIDE in done.stderr, NAMED_SCRIPT in done.stderr) == (True, False)  # it is the one that runs
    new = yaml.safe_load((tmp_path / "new.yaml").read_text())
    validate_config(new)
    assert new["training"]["optimizer"]["type"] == "adamw"


def test_a_section_of_averages_in_a_v1_file_is_migrated() -> None:
    averages = {"enabled": False, "decay": 0.99}
    with pytest.warns(ConfigWarning) as caught:
        new = migrate_config_v1_to_v2(OLD | {"training": {"epochs": 1, "ema": averages}})
    assert len(caught) == 1
    assert new["training"]["ema"] == averages
    validate_config(new)
    both = OLD | {"training": {"use_ema": True, "ema": averages}}
    with pytest.raises(ValueError, match=r"training\.ema\.enabled = false: contradicts training\.use_ema = true"):
        migrate_config_v1_to_v2(both)


def test_the_error_about_mixed_formats_names_the_keys(tmp_path: Path) -> None:
    mixed = OLD | {"training": {"checkpointing": {"save_frequency": 5}}}
    in_v1 = r"training\.checkpointing: is of V2, but device is of V1.*V1 has training\.save_frequency"
    with pytest.raises(ValueError, match=in_v1):
        migrate_config_v1_to_v2(mixed)
    (tmp_path / "mixed.yaml").write_text(yaml.safe_dump({"device": "cpu", "training": mixed["training"]}))
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "-i", str(tmp_path / "mixed.yaml")],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    assert "it mixes keys of V1 (device) with keys of V2 (training.checkpointing)" in done.stderr


def test_git_keeps_the_script_executable() -> None:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("no git checkout")
    listed = subprocess.run(
        ["git", "ls-files", "--stage", str(SCRIPT)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert listed.stdout.startswith("100755 ")
