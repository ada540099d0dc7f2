"""Migrate settings files: ``diffusion-lab migrate``, and ``scripts/migrate_config_v1_to_v2.py`` in a checkout."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffusion_lab.cli.yaml_file import read_yaml, write_new, yaml_text
from diffusion_lab.config import ConfigDeprecationWarning, ConfigError, validate_config
from diffusion_lab.console.command_line import CONF, usage
from diffusion_lab.console.messages import explain, sentence, show_plain_warnings
from diffusion_lab.console.terminal import quiet_broken_pipe
from diffusion_lab.v1.migration import (
    V1_IS_DEPRECATED,
    format_marks,
    is_v1,
    migrate_config_v1_to_v2,
)

DESCRIPTION = """Write a V1 settings file as V2, or print the command line that reproduces a V1 or V2 file.

    {migrate} -i OLD.yaml                   # print
    {migrate} -i OLD.yaml -o NEW.yaml       # write
    {migrate} -i FILE.yaml --to-overrides   # {train} experiment=...

The changes and the reasons for them: docs/migration-v1-to-v2.md.
"""


@quiet_broken_pipe()
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 1 on failure, with the reason on standard error."""
    parser = create_parser()
    args = parser.parse_args(arguments)
    if args.to_overrides and args.output:
        parser.error("--to-overrides prints, so it cannot be used with --output")
    try:
        with warnings.catch_warnings():
            show_plain_warnings()
            tree = read_yaml(args.input)
            if args.to_overrides:
                print(command_of(tree))
            else:
                migrate(tree, args.input, None if args.dry_run else args.output, args.force)
    except (ValueError, OSError) as error:
        print(f"Error: {sentence(explain(error))}", file=sys.stderr)
        return 1
    return 0


def create_parser() -> argparse.ArgumentParser:
    """Create the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog=usage("migrate"),
        description=DESCRIPTION.format(migrate=usage("migrate"), train=usage("train")),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-i", "--input", type=Path, required=True, metavar="OLD.yaml", help="the file to read")
    parser.add_argument("-o", "--output", type=Path, metavar="NEW.yaml", help="the file to write; printed if omitted")
    parser.add_argument("--dry-run", action="store_true", help="print, write nothing")
    parser.add_argument("--force", action="store_true", help="replace an existing NEW.yaml; never OLD.yaml")
    parser.add_argument("--to-overrides", action="store_true", help="print the command line instead of a file")
    return parser


def migrate(tree: dict[str, Any], source: Path, output: Path | None, force: bool) -> None:
    """Print the tree as V2, or write it, and warn about settings that V2 will refuse."""
    if not is_v1(tree):
        raise ValueError(f"{source} is not a V1 file: {_describe_format(tree)}")
    v2 = _as_v2(tree)
    text = f"# V2, migrated from {source.name} (docs/migration-v1-to-v2.md describes the changes).\n{yaml_text(v2)}"
    if output is None:
        print(text, end="")
    else:
        write_new(output, text, source, force)
        print(sentence(f"wrote {output}"), file=sys.stderr)
    try:
        validate_config(v2)
    except ConfigError as error:
        print(f"Warning: {sentence(f'must be fixed before it can run, as in V1. {error}')}", file=sys.stderr)


def _describe_format(tree: dict[str, Any]) -> str:
    old, new = format_marks(tree)
    if old and new:
        return f"it mixes keys of V1 ({', '.join(old)}) with keys of V2 ({', '.join(new)}): keep to one format"
    return "it is already V2" if new else "it lacks the keys of V1, such as device"


def _as_v2(tree: dict[str, Any]) -> dict[str, Any]:
    """Return a V1 tree as V2, with a deprecation warning that does not mention this script."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConfigDeprecationWarning)
        v2 = migrate_config_v1_to_v2(tree)
    print(f"Warning: {sentence(V1_IS_DEPRECATED)}", file=sys.stderr)
    return v2


def command_of(tree: dict[str, Any]) -> str:
    """Return the command line that reproduces the settings of a V1 or V2 tree."""
    from diffusion_lab.cli.nearest_command import nearest_command  # Hydra takes half a second

    return nearest_command(_as_v2(tree) if is_v1(tree) else tree, CONF)
