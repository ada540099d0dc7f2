"""What repeats the V2 defaults is current."""

from __future__ import annotations

from pathlib import Path

import pytest

from diffusion_lab.cli.conf_files import ConfFiles
from diffusion_lab.config import get_default_config, parse_config
from diffusion_lab.typed_settings.settings_reader import leaves
from scripts import make_defaults

CONTENTS = make_defaults.contents()


@pytest.mark.parametrize("path", CONTENTS, ids=lambda path: path.name)
def test_files_that_repeat_the_defaults_are_current(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == CONTENTS[path], "run `make defaults`"


def test_the_recipe_composes_the_defaults() -> None:
    composed = ConfFiles(make_defaults.CONF, "train").composed({"experiment": "v2_default"})
    expected = leaves(parse_config(get_default_config()).model_dump(mode="json"))
    different = {key for key, value in expected.items() if composed.get(key) != value}
    assert composed["name"] == expected["experiment"]
    assert different - {"experiment"} == {key for key in expected if key.startswith("logger.") and key in different}
