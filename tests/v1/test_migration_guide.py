"""The guide is correct: each V1 block migrates to the V2 block after it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from diffusion_lab.config import ConfigWarning, get_default_config, migrate_config_v1_to_v2
from diffusion_lab.config.optimizer_section import OptimizerSettings
from diffusion_lab.config.scheduler_section import SchedulerSettings
from diffusion_lab.typed_settings.settings_reader import leaves
from diffusion_lab.v1.format import V1_KEYS
from tests.recorded_warnings import recorded_warnings

SELDOM_OF_ADAM = {"lr", *OptimizerSettings.all_options()} - {"eps"}
SELDOM_OF_PLATEAU = [*SchedulerSettings.options_of("plateau")][3:]

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "migration-v1-to-v2.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```yaml\n# (V[12])\n(.*?)```", GUIDE, flags=re.DOTALL)
PAIRS = [(before, after) for (_, before), (_, after) in zip(BLOCKS[::2], BLOCKS[1::2], strict=True)]


def part_of(tree: dict[str, Any], shown: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a tree to show: sections with subsections in part, all others completely."""
    if not any(isinstance(value, dict) for value in shown.values()):
        return tree
    return {
        key: part_of(tree[key], value) if isinstance(value, dict) else tree.get(key) for key, value in shown.items()
    }


def test_blocks_come_in_pairs() -> None:
    assert [version for version, _ in BLOCKS] == ["V1", "V2"] * len(PAIRS)
    assert len(PAIRS) > 10


@pytest.mark.parametrize(("before", "after"), PAIRS, ids=[before.splitlines()[0] for before, _ in PAIRS])
def test_each_v1_block_migrates_to_its_v2_block(before: str, after: str) -> None:
    with recorded_warnings() as caught:
        v2 = migrate_config_v1_to_v2(yaml.safe_load(before))
    shown = yaml.safe_load(after)
    assert part_of(v2, shown) == shown
    messages = [str(warning.message) for warning in caught if warning.category is ConfigWarning]
    assert bool(messages) == ("/var/log" in before)
    assert all("its new path is runs/logs" in message for message in messages)


def test_every_key_of_both_formats_is_shown() -> None:
    before = {key for text, _ in PAIRS for key in leaves(yaml.safe_load(text))}
    after = {key for _, text in PAIRS for key in leaves(yaml.safe_load(text))}
    assert after >= leaves(get_default_config()).keys()
    older = {"training.validation.enabled", "training.validation.frequency", "training.validation.metric"}
    seldom = {f"training.optimizer_kwargs.{name}" for name in SELDOM_OF_ADAM}
    seldom |= {
        f"training.scheduler_kwargs.{name}" for name in ("last_epoch", *[*SchedulerSettings.options_of("plateau")][3:])
    }
    assert set(V1_KEYS) - before == older | seldom


def test_the_scripts_it_names_exist() -> None:
    named = re.findall(r"\bscripts/[\w.]+", GUIDE)
    assert named
    assert all((ROOT / name).is_file() for name in named)
