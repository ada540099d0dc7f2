"""Measure generated digits: ``python -m diffusion_lab.evaluation FOLDER...``, folders that ``sample.py`` has made."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from diffusion_lab.config.report import run_and_report


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, measure, print and write what was found."""
    parser = argparse.ArgumentParser(
        prog="python -m diffusion_lab.evaluation",
        description="Measure generated digits. Folders of different checkpoints, settings or data are not mixed.",
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="finished folders of sample.py")
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="default: evaluation.json in the first folder")
    given = parser.parse_args(arguments)
    run_and_report(lambda: run(given.folders, given.output))


def run(folders: Sequence[Path], output: Path | None) -> None:
    """Measure the folders together."""
    from diffusion_lab.evaluation.generated import measure_digits, read_generated
    from diffusion_lab.generation.folder import MEASURES
    from diffusion_lab.whole_files import written_whole

    text = json.dumps(measure_digits(read_generated(folders)), indent=2)
    with written_whole(output or folders[0] / MEASURES) as path:
        path.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
