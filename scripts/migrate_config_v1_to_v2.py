#!/usr/bin/env python3
"""Write a V1 settings file as V2, or print the Hydra command line that gives the settings of a V1 or V2 file.

    python scripts/migrate_config_v1_to_v2.py -i OLD.yaml                   # print
    python scripts/migrate_config_v1_to_v2.py -i OLD.yaml -o NEW.yaml       # write
    python scripts/migrate_config_v1_to_v2.py -i FILE.yaml --to-overrides   # python train.py experiment=...

What changed, and why: docs/migration-v1-to-v2.md.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from diffusion_lab.config import (  # noqa: E402
    ConfigDeprecationWarning,
    ConfigError,
    is_v1,
    migrate_config_v1_to_v2,
    validate_config,
)
from diffusion_lab.config.migration import V1_IS_DEPRECATED, format_marks  # noqa: E402
from diffusion_lab.config.yaml_file import read_yaml, write_new, yaml_text  # noqa: E402
from diffusion_lab.messages import explain, sentence, show_plain_warnings  # noqa: E402


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks for; 1 where it cannot be done, with the reason on standard error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-i", "--input", type=Path, required=True, metavar="OLD.yaml", help="the file to read")
    parser.add_argument("-o", "--output", type=Path, metavar="NEW.yaml", help="the file to write; without it, print")
    parser.add_argument("--dry-run", action="store_true", help="print, write nothing")
    parser.add_argument("--force", action="store_true", help="replace an existing NEW.yaml; never OLD.yaml")
    parser.add_argument("--to-overrides", action="store_true", help="print the command line instead of a file")
    given = parser.parse_args(arguments)
    if given.to_overrides and given.output:
        parser.error("--to-overrides prints, so it goes without --output")
    try:
        with warnings.catch_warnings():
            show_plain_warnings()
            tree = read_yaml(given.input)
            if given.to_overrides:
                print(command_of(tree))
            else:
                migrate(tree, given.input, None if given.dry_run else given.output, given.force)
    except (ValueError, OSError) as error:
        print(f"Error: {sentence(explain(error))}", file=sys.stderr)
        return 1
    return 0


def migrate(tree: dict[str, Any], source: Path, output: Path | None, force: bool) -> None:
    """Print the tree as V2, or write it; say what V2 will refuse of it."""
    if not is_v1(tree):
        raise ValueError(f"{source} is no V1 file: {_what_it_is(tree)}")
    v2 = _as_v2(tree)
    text = f"# V2, made from {source.name} (docs/migration-v1-to-v2.md tells what changed).\n{yaml_text(v2)}"
    if output is None:
        print(text, end="")
    else:
        write_new(output, text, source, force)
        print(sentence(f"{output} is written"), file=sys.stderr)
    try:
        validate_config(v2)
    except ConfigError as error:
        print(f"Warning: {sentence(f'to be mended before it runs here, as in V1. {error}')}", file=sys.stderr)


def _what_it_is(tree: dict[str, Any]) -> str:
    old, new = format_marks(tree)
    if old and new:
        return f"it mixes keys of V1 ({', '.join(old)}) with keys of V2 ({', '.join(new)}): keep to one format"
    return "it is V2 already" if new else "it lacks the keys of V1, such as device"


def _as_v2(tree: dict[str, Any]) -> dict[str, Any]:
    """A V1 tree as V2; the user who is told that V1 is deprecated need not be told of this script."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConfigDeprecationWarning)
        v2 = migrate_config_v1_to_v2(tree)
    print(f"Warning: {sentence(V1_IS_DEPRECATED)}", file=sys.stderr)
    return v2


def command_of(tree: dict[str, Any]) -> str:
    """The command line that gives the settings of a V1 or V2 tree."""
    from diffusion_lab.config.nearest_command import nearest_command  # Hydra takes half a second

    return nearest_command(_as_v2(tree) if is_v1(tree) else tree, ROOT / "conf")


if __name__ == "__main__":
    sys.exit(main())
