"""Write docs/configuration.md, the reference of every key, from the schema, and docs/commands.md (`make docs`)."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from diffusion_lab.cli.conf_files import ConfFiles
from diffusion_lab.config import get_default_config
from diffusion_lab.config.schema import CHOICES
from diffusion_lab.typed_settings.choice import ChoiceSettings
from diffusion_lab.typed_settings.settings_reader import leaves
from scripts import commands_page
from scripts.editor_schema import WHOLE_TREE, package_of, short_names
from scripts.json_schema import JsonSchema, section_schemas, type_options

ROOT = Path(__file__).resolve().parent.parent
CONF = ROOT / "conf"
PAGE = ROOT / "docs" / "configuration.md"

V2_OPTIONAL = {f"training.scheduler.{name}" for name in ("step_size", "gamma", "mode", "factor", "patience")}
"""Optional keys of the V2 format."""

REFERENCE = re.compile(r"\$\{(?:(?P<key>[\w.]+)|(?:wandb_or:\w+,|sweep_name_or:)(?P<otherwise>.*))\}")
"""A reference to another key, or to an environment variable or a sweep that sets a value, else the default."""

INTRODUCTION = """\
# Configuration

<!-- Made by `make docs` from the schema in diffusion_lab/config/: change that, not this page. -->

Every run has one tree of settings, in the V2 format. This page lists all its keys. Each fact is stated once and derived
elsewhere: the size and channels of the images follow from `model.architecture`, labels from `model.conditioning.type`,
output folders are `output.base_dir` with a name of `output.subdirs`.

A mistyped key, a wrong type, a value out of bounds or contradictory keys stop a command before anything is written,
with all faults in one message. `--cfg job` prints the tree that a command composes.

## Groups

`train.py`, `sample.py` and `evaluate.py` compose the tree from the files of `conf/`. `GROUP=NAME` selects another file
of a group, `key=value` sets one value, `+key=value` adds a key that no file contains, `~key` deletes one.

{groups}

A recipe, `experiment=NAME`, selects files and sets values; the command line still takes precedence.

{recipes}

Common keys have short names:

{short}

`python -m diffusion_lab FILE.yaml [key=value …]` runs one complete file without groups, by its `mode`. There are
examples to copy in `conf/standalone/`, and each training run saves its own as `config.yaml` in its folder. Files in the
older V1 format: [migration](migration-v1-to-v2.md).

## Editor support

Each file of `conf/` names its JSON Schema in a comment, so that editors complete keys and choices, show descriptions
and mark errors: VS Code with the YAML extension by Red Hat, JetBrains editors without a plugin, Neovim, Emacs, Helix,
Zed and Sublime Text with `yaml-language-server`. In your own files, add the line yourself, with the relative path to
the schema, below the `# @package` line if there is one, which Hydra expects first:

```yaml
# @package training.optimizer
# yaml-language-server: $schema=../../schema/conf/training.optimizer.schema.json
```

The file is named after the package (`_global_` for recipes and data). The schema of a complete V2 file is
`schema/config.schema.json`.

## Custom classes

A `type` given as a dotted path names a class on the Python path, such as `my_lab.optim.Lion` for the class `Lion` in
`my_lab/optim.py` next to `train.py`. Keys that the section does not know become arguments of that class; built-in types
accept no further keys. Paths are read from the command line and your own YAML, never from a checkpoint.

## Settings of evaluate.py

`evaluate.py` has its own tree, besides the sections `sampler` and `guidance` below ([evaluation](evaluation.md)).
Where a list is allowed, and for each option of the sampler, every value of the list is evaluated.

{evaluation}

## Keys

*V2 default* is the value of a key in `get_default_config()`, in `conf/standalone/default.yaml` and with
`python train.py experiment=v2_default`. *`train.py`* is its value in a plain `python train.py`, as its groups and
`conf/train.yaml` set it; a key that they leave out (—) has the V2 default. Other files of a group set other values.

Keys marked † are extensions of the V2 format: they may be left out of any file and then have the V2 default. All others
are required in a complete training file, except for `experiment` and `mode`.

Names of choices are accepted in any case (`AdamW`, `CUDA:1`), and `none` in any case is null where null is allowed,
except in keys that hold your own strings, paths, or dotted paths of your own classes. `config.yaml` uses the spelling
shown here. The files of `conf/` are selected by their own names: `optimizer=adamw`.

With `mode: generate` a file needs `mode`, `generation.checkpoint` and `output.base_dir`, and `model` for a plain state
dict. Omitted keys of these sections and of those of training have the V2 default, except for `compute.device`, which is
then `auto`; the stages of a network must be given completely. Check `image_size`, `num_timesteps` and `beta_schedule`
of such a `model`: they do not follow from the weights.

Any value may be a reference to another, such as `${{training.epochs}}`.
"""


def main() -> None:
    """Write both pages."""
    for file, text in ((PAGE, page()), (commands_page.PAGE, commands_page.page())):
        file.write_text(text, encoding="utf-8")
        print(file.relative_to(ROOT))


def page() -> str:
    """Return the content of the page."""
    introduction = INTRODUCTION.format(
        groups=_groups(), recipes=_recipes(), short=_short_names(), evaluation=_evaluation()
    )
    return "\n".join([introduction, *Reference().section("TrainConfig")])


def _groups() -> str:
    entries = yaml.safe_load((CONF / "train.yaml").read_text(encoding="utf-8"))["defaults"]
    rows = []
    for group in (name for entry in entries if isinstance(entry, dict) for name in entry if " " not in name):
        files = sorted((CONF / group).glob("*.yaml"))
        package = package_of(files[0])
        target = "the whole tree" if package == WHOLE_TREE else f"`{package}`"
        rows.append((f"`{group}`", target, ", ".join(f"`{file.stem}`" for file in files)))
    return _table(("group", "sets", "files"), rows)


def _recipes() -> str:
    files = sorted((CONF / "experiment").glob("*.yaml"))
    return _table(("recipe", "what it is"), [(f"`experiment={file.stem}`", _first_comment(file)) for file in files])


def _first_comment(file: Path) -> str:
    lines = file.read_text(encoding="utf-8").splitlines()
    first = next(line for line in lines if not line.startswith(("# @package", "# yaml-language-server")))
    return first.removeprefix("# ")


def _short_names() -> str:
    names = {root: short_names(CONF / f"{root}.yaml") for root in ("train", "sample", "evaluate")}
    rows = [(f"`{short}`", f"`{root}.py`", f"`{key}`") for root in names for short, key in names[root].items()]
    return _table(("short name", "command", "key"), rows)


def _evaluation() -> str:
    """Return a table of the keys of ``evaluate.py`` that are not in the V2 tree."""
    sections = section_schemas()

    def rows(section: JsonSchema, key: str) -> Iterator[tuple[str, ...]]:
        for name, value in section["properties"].items():
            inner = value.get("$ref", "").rpartition("/")[2]
            if name in ("experiment", "mode", "sampler", "guidance", "model"):
                continue
            if inner:
                yield from rows(sections[inner], f"{key}{name}.")
            else:
                yield f"`{key}{name}`", _kind(value), _code(value.get("default")), value["description"]

    return _table(("key", "type and bounds", "default", "meaning"), rows(sections["EvaluateConfig"], ""))


class Reference:
    """Headings and tables of all keys."""

    def __init__(self) -> None:
        default = get_default_config()
        self.sections = section_schemas()
        self.defaults = leaves(default)
        self.composed = composed_by_train()
        root = self.sections["TrainConfig"]["properties"]
        root["mode"]["enum"] = [root["mode"].pop("const"), "generate"]
        order = [*default, *(name for name in root if name not in default)]
        self.sections["TrainConfig"]["properties"] = {name: root[name] for name in order}

    def section(self, name: str, key: str = "") -> Iterator[str]:
        """Yield the text of a section and its subsections, by the name of its class and its dotted key."""
        section = self.sections[name]
        if key:
            text = section["description"].removeprefix(f"`{key}`: ")
            yield f"{'###' if '.' in key else '##'} `{key}`\n\n{text[0].upper()}{text[1:]}\n"
        inner = {part: value["$ref"] for part, value in section["properties"].items() if "$ref" in value}
        values = {part: value for part, value in section["properties"].items() if part not in inner}
        if values:
            yield self.table(key, values)
        for choice in (each for each in CHOICES if key == each.KEY):
            yield from self.options(choice)
        for part, reference in inner.items():
            yield from self.section(reference.rpartition("/")[2], f"{key}.{part}".lstrip("."))

    def table(self, section: str, values: Mapping[str, JsonSchema]) -> str:
        """Return a table with a row for each key of a section."""
        rows = (self.row(f"{section}.{name}".lstrip("."), value) for name, value in values.items())
        return _table(("key", "type and bounds", "V2 default", "`train.py`", "meaning"), rows) + "\n"

    def row(self, key: str, value: JsonSchema) -> tuple[str, ...]:
        """Return name, type, both defaults and meaning of a key; extensions of the format are marked."""
        mark = "" if key in self.defaults or key in V2_OPTIONAL else " †"
        default = _code(self.defaults.get(key, value.get("default")))
        if key not in self.defaults and (key in V2_OPTIONAL or "default" not in value):
            default = "optional" if key in V2_OPTIONAL else "required"
        composed = _code(self.composed[key]) if key in self.composed else "—"
        return f"`{key}`{mark}", _kind(value), default, composed, value["description"]

    def options(self, choice: type[ChoiceSettings]) -> Iterator[str]:
        """Yield the options that all types share, then those specific to a type or with another default."""
        declared = {name: type_options(choice, name) for name in choice.NAMED if choice.path_of(name) is None}
        first, *others = declared.values()
        shared = {option: value for option, value in first.items() if all(value == own.get(option) for own in others)}
        if shared:
            yield f"Every type of `{choice.KEY}` has these options:\n"
            yield self.table(choice.KEY, shared)
        for name, options in declared.items() if choice.all_options() else ():
            own = {option: value for option, value in options.items() if value != shared.get(option)}
            yield f"`type: {_code(name)[1:-1]}`. {inspect.getdoc(choice.NAMED[name])}\n"
            if own:
                yield self.table(choice.KEY, own)
        for name in (name for name in choice.NAMED if name not in declared):
            arguments = ", ".join(f"`{option}`" for option in type_options(choice, name)) or "none"
            yield f"`type: {name}`. The class `{choice.path_of(name)}`; its arguments: {arguments}.\n"


def composed_by_train() -> dict[str, Any]:
    """Return the values of `python train.py` by dotted key; the run folder is described, not named."""
    values = ConfFiles(CONF, "train").composed({})

    def resolved(value: Any) -> Any:
        reference = REFERENCE.fullmatch(value) if isinstance(value, str) else None
        if reference is None:
            return value
        key, otherwise = reference["key"], reference["otherwise"]
        return resolved(values[key] if key else yaml.safe_load(otherwise) if "$" not in otherwise else otherwise)

    return {key: resolved(value) for key, value in values.items()} | {"output.base_dir": "outputs/EXPERIMENT/TIME"}


def _kind(value: JsonSchema) -> str:
    """Return a short description of a JSON Schema, such as ``integer ≥ 1``; null comes last."""
    *others, last = _kinds(value)
    if not others:
        return last
    either = ", ".join(others)
    return f"{either}, or {last}" if last == "`null`" and re.search(", | or ", either) else f"{either} or {last}"


def _kinds(value: JsonSchema, many: bool = False) -> list[str]:
    if "enum" in value or "const" in value:
        return [_code(choice) for choice in value.get("enum", [value.get("const")])]
    if "type" not in value:
        return [kind for choice in value["anyOf"] for kind in _kinds(choice, many)]
    if value["type"] == "null":
        return ["`null`"]
    if value["type"] == "array":
        entries = value["items"]
        if isinstance(entries, list):
            return [f"{len(entries)} {' or '.join(_kinds(entries[0], many=True))}"]
        return [f"{'non-empty ' if value.get('minItems') else ''}list of {' or '.join(_kinds(entries, many=True))}"]
    word = value.get("format", "string").replace("-", " ") if value["type"] == "string" else value["type"]
    return [word + ("s" if many else "") + _bounds(value)]


def _bounds(value: JsonSchema) -> str:
    low, high = value.get("minimum", value.get("exclusiveMinimum")), value.get("maximum", value.get("exclusiveMaximum"))
    least, most = ("≤" if "minimum" in value else "<"), ("≤" if "maximum" in value else "<")
    if low is not None and high is not None:
        return f", {low:g} {least} x {most} {high:g}"
    if low is not None:
        return f" {'≥' if least == '≤' else '>'} {low:g}"
    return "" if high is None else f" {most} {high:g}"


def _code(value: Any) -> str:
    """Return a value as YAML, marked as code."""
    text = yaml.safe_dump(value, default_flow_style=True, width=1000).partition("\n")[0]
    return f"`{text}`"


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = tuple(head)
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


if __name__ == "__main__":
    main()
