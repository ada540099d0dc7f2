"""Examine the machine: ``diffusion-lab doctor``, and ``python -m diffusion_lab.doctor`` in a checkout."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

from diffusion_lab.console.command_line import command, usage
from diffusion_lab.console.messages import show_plain_warnings
from diffusion_lab.console.terminal import printable, quiet_broken_pipe
from diffusion_lab.doctor.examination import Examination
from diffusion_lab.doctor.findings import Finding, Status
from diffusion_lab.doctor.page import Style, heading, lines_of, summary
from diffusion_lab.runtime.exit_on_signals import exit_on_signals
from diffusion_lab.runtime.home import ensure_home
from diffusion_lab.version import __version__


@quiet_broken_pipe()
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line (default: that of this process) and return the exit code: 1 if there is a problem."""
    args = create_parser().parse_args(arguments)
    show_plain_warnings()
    ensure_home()
    with exit_on_signals():
        examination = Examination(args.online, not args.no_measure, args.compile, command("doctor"), _report)
        return _as_json(examination) if args.json else _as_text(examination)


def create_parser() -> argparse.ArgumentParser:
    """Create the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog=usage("doctor"),
        description="Examine this machine and installation: hardware and what it accelerates, versions, extras, "
        "caches, W&B, disks, and the performance= settings with which training is fastest here, measured for ten "
        "seconds. What is wrong comes with the command that remedies it. The output contains no secrets: add it to "
        "reports of faults.",
    )
    parser.add_argument("--no-measure", action="store_true", help="do not measure the speed of training")
    parser.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        help="measure compiled networks as well, which takes minutes on a CPU; default: on a GPU",
    )
    parser.add_argument("--online", action="store_true", help="ask whether the server of W&B answers")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _as_text(examination: Examination) -> int:
    style = Style(_has_colors(), sys.stdout.encoding or "ascii")
    findings: list[Finding] = []
    for title, found in examination.sections():
        lines = [heading(title, style), *(line for finding in found for line in lines_of(finding, style))]
        print("\n".join(lines), end="\n\n", flush=True)
        findings += found
    print(summary(findings, style))
    return _exit_code(findings)


def _as_json(examination: Examination) -> int:
    sections = dict(examination.sections())
    code = _exit_code([finding for found in sections.values() for finding in found])
    content = {
        "version": __version__,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "ok": code == 0,
        "sections": {title: [finding.as_json() for finding in found] for title, found in sections.items()},
        "performance": examination.speed_as_json(),
    }
    print(json.dumps(content, indent=2))
    return code


def _exit_code(findings: Sequence[Finding]) -> int:
    return int(any(finding.status is Status.PROBLEM for finding in findings))


def _has_colors() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _report(line: str) -> None:
    """Tell a user who waits at a terminal what takes long."""
    if sys.stderr.isatty():
        print(printable(f"  {line} …"), file=sys.stderr, flush=True)
