"""Write a report about runs: one HTML page. `python report.py --help` explains the arguments."""

from __future__ import annotations

import sys
from pathlib import Path

from diffusion_lab.reports.command import main
from diffusion_lab.runtime.exit_on_signals import exit_on_signals

CONF = Path(__file__).resolve().parent / "conf"

if __name__ == "__main__":
    with exit_on_signals():
        sys.exit(main(conf=CONF))
