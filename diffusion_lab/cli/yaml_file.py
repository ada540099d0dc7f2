"""Settings files: read with references resolved, written so that YAML 1.1 and 1.2 parsers agree."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from diffusion_lab.cli.interpolations import check_interpolations
from diffusion_lab.files.reading import FileTooLargeError, NotRegularFileError, read_regular
from diffusion_lab.files.writing import atomic_write

MAX_LINE_LENGTH = 1000
"""Characters of a list on one line before it is wrapped."""

MAX_BYTES, MAX_VALUES, MAX_LEVELS = 2**20, 20_000, 50
"""Limits of a settings file: its size, its values with all aliases (``*alias``) expanded, and nested sections."""

MAX_DIGITS = 100
LONG_NUMBER = re.compile(rf"[-+]?(0[xob])?[0-9a-fA-F_:.]{{{MAX_DIGITS + 1},}}")
"""Plain scalar that YAML may parse as a number; some formats have no limit except memory."""

UNREADABLE = (
    *(yaml.YAMLError, UnicodeDecodeError, OmegaConfBaseException),
    *(ValueError, LookupError, TypeError, AttributeError, ArithmeticError),  # raised by PyYAML for invalid values
)

READER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C version is several times as fast


def read_yaml(file: Path) -> dict[str, Any]:
    """Return the tree in a settings file, with references (``${experiment}``) resolved.

    Raises:
        ValueError: With a one-line message: invalid YAML, not a mapping of keys, or a reference to a missing key.
        OSError: The file does not exist or cannot be read.
    """
    try:
        plain = OmegaConf.to_container(load_tree(file), resolve=True)
    except OmegaConfBaseException as error:
        raise ValueError(f"{file} has a reference that cannot be resolved: {str(error).splitlines()[0]}") from error
    return {str(name): value for name, value in cast("dict[Any, Any]", plain).items()}


def load_tree(file: Path) -> DictConfig:
    """Return the tree in a settings file unchanged. Raises as ``read_yaml`` does, except for references."""
    try:
        content = read_regular(file, MAX_BYTES)
        _refuse_excess(content, file)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{file} does not exist") from error
    except NotRegularFileError as error:
        raise ValueError(f"{file} is not a regular file: pass a settings file") from error
    except FileTooLargeError as error:
        raise ValueError(f"{file} is not a settings file: it has more than {MAX_BYTES} bytes") from error
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
        tree = None  # a single string or number, for which OmegaConf raises this
    if not isinstance(tree, DictConfig) or not tree:
        raise ValueError(f"{file} contains no settings: a mapping of keys to values is expected")
    check_interpolations(OmegaConf.to_container(tree, resolve=False), str(file))
    return tree


def _refuse_excess(content: bytes, file: Path) -> None:
    """Raise ValueError for a small file that expands to a huge one, before it is loaded."""
    sizes: dict[str, int] = {}
    values = references = 0
    open_anchors: list[tuple[str | None, int]] = []  # enclosing sections and lists: anchor, values before
    for event in yaml.parse(content, Loader=READER):
        if isinstance(event, yaml.AliasEvent):
            values += sizes.get(event.anchor or "", MAX_VALUES)  # a recursive one is infinite
        elif isinstance(event, yaml.NodeEvent):
            values += 1
        if isinstance(event, yaml.CollectionStartEvent):
            open_anchors.append((event.anchor, values))
        elif isinstance(event, yaml.ScalarEvent):
            sizes[event.anchor or ""] = 1
            if event.implicit[0] and LONG_NUMBER.fullmatch(event.value):
                raise ValueError(
                    f"{file} contains a number of {len(event.value)} digits, more than the limit of {MAX_DIGITS}"
                )
            references = max(references, event.value.count("${"))
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_anchors.pop()
            sizes[anchor or ""] = values - before + 1
        if values > MAX_VALUES or max(len(open_anchors), references) > MAX_LEVELS:
            raise ValueError(
                f"{file} is not a settings file: it has more than {MAX_VALUES} values with all aliases expanded, "
                f"or more than {MAX_LEVELS} nested sections or references"
            )


def yaml_text(tree: Mapping[str, Any]) -> str:
    """Return a settings tree as readable YAML: empty lines around sections, lists on one line.

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
        text += yaml.dump({name: value}, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=MAX_LINE_LENGTH)
        after_section = section
    return text


def write_new(file: Path, text: str, source: Path, force: bool = False) -> None:
    """Write a file atomically that was made from ``source``, which is never replaced.

    Args:
        file: File to write; its folder must exist.
        text: Content.
        source: File that it was made from.
        force: Replace ``file`` if it exists.

    Raises:
        FileExistsError: It exists, without ``force``, or is the same file as ``source``.
        OSError: It cannot be written; nothing has changed.
    """
    if not file.parent.is_dir():
        raise FileNotFoundError(f"{file.parent} is not a folder: create it first")
    if file.exists():
        if not file.is_file():
            raise FileExistsError(f"{file} is not a regular file")
        if file.samefile(source):
            raise FileExistsError(f"{file} is the input, which is not overwritten: choose another --output")
        if not force:
            raise FileExistsError(f"{file} exists: --force overwrites it")
    with atomic_write(file, durable=False) as partial:
        partial.write_text(text, encoding="utf-8")


class _Dumper(yaml.SafeDumper):
    """Writes lists on one line, and quotes around strings that some parser reads as a number (YAML 1.2: 1e-6)."""


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
