"""Write a page about runs: ``diffusion-lab report``, and ``report.py`` in a checkout."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from diffusion_lab.console.command_line import CONF, usage
from diffusion_lab.console.messages import explain, sentence, show_plain_warnings
from diffusion_lab.console.terminal import printable, quiet_broken_pipe
from diffusion_lab.reports.build import Report
from diffusion_lab.reports.discovery import find_runs
from diffusion_lab.runtime.exit_codes import EXIT_CODE
from diffusion_lab.runtime.exit_on_signals import exit_on_signals
from diffusion_lab.typed_settings.section import home_expanded

WATCH_SECONDS = 5.0
"""Seconds between two versions of a page that is watched."""

QUIET_ROUNDS = 3
"""A watched page is finished when nothing was running so often in a row: a sweep pauses between its jobs."""


@quiet_broken_pipe()
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line (default: that of this process) and return the exit code."""
    args = create_parser().parse_args(arguments)
    show_plain_warnings()
    with exit_on_signals():
        return _run(args)


def _run(args: argparse.Namespace) -> int:
    targets = [Path(home_expanded(target)) for target in args.targets]
    output = None if args.output is None else Path(home_expanded(args.output))
    try:
        if args.sample:
            _sample(targets)
        report = Report(targets, output, CONF)
        running = report.write(WATCH_SECONDS if args.watch else None)
        print(printable(f"report: {report.file}"), flush=True)
        if args.watch:
            _watch(report, running)
    except (ValueError, OSError) as error:
        print(f"Error: {sentence(explain(error))}", file=sys.stderr)
        return EXIT_CODE
    return 0


def create_parser() -> argparse.ArgumentParser:
    """Create the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog=usage("report"),
        description="Write one HTML page about a run, a sweep, or several runs side by side. It opens without a "
        "network and contains everything: settings, curves, samples, quality, commands.",
    )
    parser.add_argument("targets", nargs="+", metavar="FOLDER", help="run folder, sweep, or folder that contains runs")
    parser.add_argument("--output", metavar="FILE", help="the page; report.html in the only FOLDER, else in this one")
    parser.add_argument("--watch", action="store_true", help="write the page again every few seconds while runs go on")
    parser.add_argument(
        "--sample",
        action="store_true",
        help="sample denoising strips and a grid of guidance and steps from the best checkpoint of each run first",
    )
    return parser


def _sample(targets: Sequence[Path]) -> None:
    """Sample the images of the report for each run with a checkpoint; a run that cannot is named."""
    from diffusion_lab.reports.sampled import sample_for_report  # imports torch

    for folder in find_runs(targets):
        try:
            made = sample_for_report(folder)
        except FileNotFoundError:
            print(printable(f"{folder}: no checkpoint to sample from"))
        except Exception as error:  # of any model, sampler or device: the report shows the rest
            print(f"Warning: {sentence(f'{folder} cannot be sampled from: {explain(error)}')}", file=sys.stderr)
        else:
            print(printable(f"{folder}: {'sampled' if made else 'samples of an earlier report are up to date'}"))


def _watch(report: Report, running: bool) -> None:
    """Write the page again and again until nothing runs, or Ctrl-C; its last version no longer reloads itself."""
    quiet = 0 if running else QUIET_ROUNDS
    try:
        while quiet < QUIET_ROUNDS:
            time.sleep(WATCH_SECONDS)
            quiet = 0 if report.write(WATCH_SECONDS) else quiet + 1
        print("nothing is running any more: the page is complete")
    except KeyboardInterrupt:
        print("stopped: the page stays as it is now")
    finally:
        report.write(None)
