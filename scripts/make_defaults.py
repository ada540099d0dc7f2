"""Write what repeats the V2 defaults of diffusion_lab/config/v2_defaults.yaml (`make defaults`).

These are the file to copy in conf/standalone/, the structure shown in docs/settings.md, and the recipe
conf/experiment/v2_default.yaml, which sets what its groups do not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from diffusion_lab.cli.conf_files import ConfFiles
from diffusion_lab.config import get_default_config, parse_config
from diffusion_lab.config.defaults import V2_DEFAULTS
from diffusion_lab.typed_settings.settings_reader import leaves

ROOT = Path(__file__).resolve().parent.parent
CONF = ROOT / "conf"

STANDALONE_HEAD = """\
# yaml-language-server: $schema=../../schema/config.schema.json
# A complete V2 settings file that trains, with the default of every key. Copy it, change it, and run it:
#   python -m diffusion_lab MINE.yaml [key=value ...]      (--validate only checks)
# Keys omitted here have defaults: docs/configuration.md lists them all.
"""

RECIPE_HEAD = """\
# @package _global_
# yaml-language-server: $schema=../../schema/conf/_global_.schema.json
# Exactly the defaults of the V2 format: an unconditional model of your own images in data/train, on a GPU.
# Made by `make defaults` from diffusion_lab/config/v2_defaults.yaml: change that, not this file.
defaults:
  - override /model: unet_small
  - override /diffusion: cosine
  - override /conditioning: none
  - override /data: image_folder
  - override /optimizer: adam
  - override /scheduler: none
  - override /ema: 'on'
  - override /sampler: ddim
  - override /guidance: plain
  - override /callbacks: default
  - override /logger: none
  - override /performance: default

"""

EXTENSIONS = {"model.diffusion.prediction": "the network predicts the noise"}
"""Comments on keys beyond the V2 format whose default differs from the files of the groups."""


def contents() -> dict[Path, str]:
    """Return the content of each file."""
    text = V2_DEFAULTS.read_text(encoding="utf-8")
    structure = text[re.search(r"^\w", text, re.MULTILINE).start() :]  # type: ignore[union-attr]
    page = ROOT / "docs" / "settings.md"
    block = re.compile(r"(?<=```yaml\n)experiment:.*?(?=```)", re.DOTALL)
    return {
        CONF / "standalone" / "default.yaml": STANDALONE_HEAD + structure,
        CONF / "experiment" / "v2_default.yaml": RECIPE_HEAD + "\n".join(_recipe(structure)) + "\n",
        page: block.sub(lambda _: structure, page.read_text(encoding="utf-8")),
    }


def _recipe(structure: str) -> Iterator[str]:
    """Yield the lines of the recipe: the defaults that differ from what its groups compose."""
    default = get_default_config()
    groups = {
        key.rpartition("/")[2]: name for entry in yaml.safe_load(RECIPE_HEAD)["defaults"] for key, name in entry.items()
    }
    composed = ConfFiles(CONF, "train").composed(groups)
    target = leaves({name: parse_config(default).model_dump(mode="json")[name] for name in default})
    written = dict(_written(structure))
    previous: list[str] = []
    for key, value in target.items():
        if composed.get(key) == value or key == "mode":
            continue
        *sections, name = key.split(".")
        for depth, section in enumerate(sections):
            if previous[: depth + 1] != sections[: depth + 1]:
                yield f"{'  ' * depth}{section}:"
        previous = sections
        line = written.get(key) or f"{name}: {value} # {EXTENSIONS[key]}"
        yield "  " * len(sections) + ("name" + line.removeprefix("experiment") if key == "experiment" else line)


def _written(structure: str) -> Iterator[tuple[str, str]]:
    """Yield the line of each key, without its indentation, by dotted key."""
    lines = structure.splitlines()

    def visit(node: Any, prefix: str) -> Iterator[tuple[str, str]]:
        for name, value in node.value:
            if isinstance(value, yaml.MappingNode):
                yield from visit(value, f"{prefix}{name.value}.")
            else:
                yield f"{prefix}{name.value}", lines[name.start_mark.line].strip()

    return visit(yaml.compose(structure), "")


def main() -> None:
    """Write the files."""
    for path, text in contents().items():
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
