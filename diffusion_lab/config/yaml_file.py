"""Settings files: read with references resolved, written so that YAML 1.1 and 1.2 readers take them alike."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from diffusion_lab.atomic_files import atomic_write
from diffusion_lab.config.interpolations import check_interpolations
from diffusion_lab.safe_files import FileTooLargeError, NotRegularFileError, read_regular

LONGEST_LINE = 1000
"""Characters of a list on one line, before it is broken."""

MOST_BYTES, MOST_VALUES, MOST_LEVELS = 2**20, 20_000, 50
"""Of a settings file: its size, its values with all repeats (``*alias``) written out, and sections in sections."""

MOST_DIGITS = 100
LONG_NUMBER = re.compile(rf"[-+]?(0[xob])?[0-9a-fA-F_:.]{{{MOST_DIGITS + 1},}}")
"""A plain scalar that YAML may take for a number, decimal or not: some have no other limit than memory."""

UNREADABLE = (
    *(yaml.YAMLError, UnicodeDecodeError, OmegaConfBaseException),
    *(ValueError, LookupError, TypeError, AttributeError, ArithmeticError),  # of PyYAML, at values it cannot make
)

READER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # in C it is several times as fast


def read_yaml(file: Path) -> dict[str, Any]:
    """The tree in a settings file, references (``${experiment}``) resolved.

    Raises:
        ValueError: In one line: no YAML, no mapping of keys to values, or a reference that leads nowhere.
        OSError: The file is not there or cannot be read.
    """
    try:
        plain = OmegaConf.to_container(load_tree(file), resolve=True)
    except OmegaConfBaseException as error:
        raise ValueError(f"{file} has a reference that leads nowhere: {str(error).splitlines()[0]}") from error
    return {str(name): value for name, value in cast("dict[Any, Any]", plain).items()}


def load_tree(file: Path) -> DictConfig:
    """The tree in a settings file as it stands there. Raises as ``read_yaml`` does, but for references."""
    try:
        content = read_regular(file, MOST_BYTES)
        _refuse_excess(content, file)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{file} does not exist") from error
    except NotRegularFileError as error:
        raise ValueError(f"{file} is not a regular file: give a settings file") from error
    except FileTooLargeError as error:
        raise ValueError(f"{file} is no settings file: more than {MOST_BYTES} bytes, which are never read") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{file} is not valid YAML: {' '.join(str(error).split())}") from error
    try:
        tree = OmegaConf.load(io.StringIO(content.decode("utf-8-sig")))
    except UNREADABLE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{file} is not valid YAML: {reason}") from error
    except OSError as error:
        if error.errno is not None:
            raise
        tree = None  # a single text or number, in OmegaConf's way to say so
    if not isinstance(tree, DictConfig) or not tree:
        raise ValueError(f"{file} holds no settings: a mapping of keys to values is expected")
    check_interpolations(OmegaConf.to_container(tree, resolve=False), str(file))
    return tree


def _refuse_excess(content: bytes, file: Path) -> None:
    """Raise ValueError for a file that is small to look at and endless to read, before anything is made of it."""
    sizes: dict[str, int] = {}
    values = references = 0
    open_anchors: list[tuple[str | None, int]] = []  # sections and lists around: their anchor, the values before them
    for event in yaml.parse(content, Loader=READER):
        if isinstance(event, yaml.AliasEvent):
            values += sizes.get(event.anchor or "", MOST_VALUES)  # one within itself has no end
        elif isinstance(event, yaml.NodeEvent):
            values += 1
        if isinstance(event, yaml.CollectionStartEvent):
            open_anchors.append((event.anchor, values))
        elif isinstance(event, yaml.ScalarEvent):
            sizes[event.anchor or ""] = 1
            if event.implicit[0] and LONG_NUMBER.fullmatch(event.value):
                raise ValueError(f"{file} holds a number of {len(event.value)} digits, at most {MOST_DIGITS} are read")
            references = max(references, event.value.count("${"))
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_anchors.pop()
            sizes[anchor or ""] = values - before + 1
        if values > MOST_VALUES or max(len(open_anchors), references) > MOST_LEVELS:
            raise ValueError(
                f"{file} is no settings file: more than {MOST_VALUES} values with all repeats (*alias) written out, "
                f"or more than {MOST_LEVELS} sections or references within each other"
            )


def yaml_text(tree: Mapping[str, Any]) -> str:
    """A settings tree as text to read and edit: an empty line around sections, lists on one line.

    >>> print(yaml_text({"mode": "train", "training": {"epochs": 3, "optimizer": {"eps": 1e-8, "betas": [0.9, 0.99]}}}))
    mode: train
    <BLANKLINE>
    training:
      epochs: 3
      optimizer:
        eps: 1.0e-08
        betas: [0.9, 0.99]
    <BLANKLINE>
    """
    text, after_section = "", False
    for name, value in tree.items():
        section = isinstance(value, Mapping)
        text += "\n" if text and (section or after_section) else ""
        text += yaml.dump({name: value}, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=LONGEST_LINE)
        after_section = section
    return text


def write_new(file: Path, text: str, source: Path, force: bool = False) -> None:
    """Write a file all at once, made from ``source``, which is never replaced.

    Args:
        file: Where to; its folder must exist.
        text: What.
        source: The file that it was made from.
        force: Replace ``file`` where it exists.

    Raises:
        FileExistsError: It exists, without ``force``, or is ``source`` by this or another name.
        OSError: It cannot be written; nothing has changed.
    """
    if not file.parent.is_dir():
        raise FileNotFoundError(f"{file.parent} is no folder: make it first")
    if file.exists():
        if not file.is_file():
            raise FileExistsError(f"{file} is no file that could be written")
        if file.samefile(source):
            raise FileExistsError(f"{file} is the input, which is not overwritten: name another --output")
        if not force:
            raise FileExistsError(f"{file} exists: --force overwrites it")
    with atomic_write(file, durable=False) as partial:
        partial.write_text(text, encoding="utf-8")


class _Dumper(yaml.SafeDumper):
    """Lists on one line; quotes around text that some reader takes for a number (YAML 1.2: 1e-6)."""


def _represent_list(dumper: yaml.SafeDumper, values: list[Any]) -> yaml.Node:
    return dumper.represent_sequence("tag:yaml.org,2002:seq", values, flow_style=True)


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="'" if _is_number(text) else None)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


_Dumper.add_representer(list, _represent_list)
_Dumper.add_representer(str, _represent_text)
