"""The command ``report.py``: write a page about runs, once or again and again while they train."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from diffusion_lab.config.section import home_expanded
from diffusion_lab.console.messages import explain, sentence, show_plain_warnings
from diffusion_lab.console.terminal import printable
from diffusion_lab.faults import shown
from diffusion_lab.reports.discovery import find_runs, names_of
from diffusion_lab.reports.images import ImageStore
from diffusion_lab.reports.page_file import write_page
from diffusion_lab.reports.payload import ReportSource, payload
from diffusion_lab.reports.records import RunRecord
from diffusion_lab.reports.run_reader import read_results, read_run
from diffusion_lab.reports.settings import default_values
from diffusion_lab.runtime.exit_codes import EXIT_CODE
from diffusion_lab.sweeps.job_record import RECORD

FILE = "report.html"
SINGLE_PIXELS, MANY_PIXELS = 1400, 640
"""Maximum width and height of pictures in the report of one run, and of several."""

WATCH_SECONDS = 5.0


def main(arguments: Sequence[str] | None = None, conf: Path | None = None) -> int:
    """Run the command and return the exit code.

    Args:
        arguments: Command line without the program; that of the process if None.
        conf: Folder of the settings that ``train.py`` composes, for the defaults.
    """
    args = _parser().parse_args(arguments)
    show_plain_warnings()
    try:
        if args.sample:
            _sample(args.targets)
        file = write_report(args.targets, args.output, conf, WATCH_SECONDS if args.watch else None)
        print(f"report: {printable(file)}", flush=True)
        if args.watch:
            _watch(lambda: write_report(args.targets, args.output, conf, WATCH_SECONDS), args.targets, conf, args.output)
    except (ValueError, OSError) as error:
        print(f"Error: {sentence(explain(error))}", file=sys.stderr)
        return EXIT_CODE
    except KeyboardInterrupt:
        return 0
    return 0
