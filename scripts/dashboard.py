"""Start TensorBoard on the runs that log to it: ``make dashboard``, or ``python scripts/dashboard.py FOLDER``."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from diffusion_lab.console.command_line import command
from diffusion_lab.console.messages import sentence
from diffusion_lab.runtime.exit_codes import EXIT_CODE

IMAGES = 1000
"""Pictures of each name that are kept; TensorBoard's own limit is 10, so that most epochs would be missing."""


def dashboard_command(folder: Path, port: int | None = None) -> list[str]:
    """Return the command that starts TensorBoard on the runs in a folder.

    Raises:
        ValueError: TensorBoard is missing, or no run in the folder has logged to it.
    """
    if find_spec("tensorboard") is None:
        raise ValueError("TensorBoard is missing: pip install tensorboard")
    if next(folder.rglob("events.out.tfevents.*"), None) is None:
        raise ValueError(
            f"no run in {folder} has logged to TensorBoard: {command('train', 'logger=tensorboard')} does, "
            f"logger=all does so besides W&B; {command('report', folder)} shows any run"
        )
    port_options = [] if port is None else ["--port", str(port)]
    started = [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder)]
    return [*started, "--samples_per_plugin", f"images={IMAGES}", *port_options]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line (default: that of this process) and return the exit code."""
    parser = argparse.ArgumentParser(description="Start TensorBoard on the runs in a folder; Ctrl-C ends it.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path("outputs"), help="default: outputs")
    parser.add_argument("--port", type=int, help="default: 6006, or the next one that is free")
    args = parser.parse_args(arguments)
    try:
        started = dashboard_command(args.folder, args.port)
    except ValueError as error:
        print(f"Error: {sentence(str(error))}", file=sys.stderr)
        return EXIT_CODE
    try:
        return subprocess.run(started).returncode
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    raise SystemExit(main())
