"""Run a settings file: ``diffusion-lab run FILE.yaml [key=value ...]`` trains or generates, by its mode."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from diffusion_lab.cli.report import run_and_report
from diffusion_lab.cli.settings_file import read_settings
from diffusion_lab.cli.yaml_file import yaml_text
from diffusion_lab.config import TrainConfig
from diffusion_lab.console.command_line import CONF, set_typed_command, usage
from diffusion_lab.console.terminal import printable, quiet_broken_pipe
from diffusion_lab.sweeps.launchers import check_launcher

EXAMPLES = """
complete files to copy are in {standalone}

examples:
  {run} MINE.yaml data.paths.train=DIR training.epochs=10
  {run} GENERATE.yaml generation.checkpoint=RUN_FOLDER
  {run} MINE.yaml --validate
"""


@quiet_broken_pipe()
def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, check the settings and run them."""
    args = create_parser().parse_intermixed_args(arguments)
    set_typed_command("run", [str(args.file), *args.overrides])
    run_and_report(lambda: run(args.file, args.overrides, args.validate))


def create_parser() -> argparse.ArgumentParser:
    """Create the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog=usage("run"),
        description="Train or generate from one settings file: a complete V2 file, or an old V1 file.",
        epilog=EXAMPLES.format(run=usage("run"), standalone=shlex.quote(str(CONF / "standalone"))),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=Path, metavar="FILE.yaml", help="all settings; its `mode` is train or generate")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="V2 keys that differ from the file")
    parser.add_argument("--validate", action="store_true", help="check and print the resolved settings, run nothing")
    return parser


def run(file: Path, overrides: Sequence[str], only_validate: bool) -> None:
    """Train or generate. All faults are reported before heavy libraries are imported."""
    if not only_validate:
        check_launcher(overrides)
    config = read_settings(file, overrides)
    if only_validate:
        print(yaml_text(config.model_dump(mode="json")), end="")
    elif isinstance(config, TrainConfig):
        from diffusion_lab.commands.train import start

        start(config)
    else:
        from diffusion_lab.generation.generate import generate
        from diffusion_lab.runtime.exit_on_signals import exit_on_signals
        from diffusion_lab.tracking.generations import log_generation

        with exit_on_signals():
            made = generate(config)
            print(printable(made))
            log_generation(config, made)
