"""Write a report about runs: one HTML page. `python report.py --help` explains the arguments."""

from __future__ import annotations

import sys
from pathlib import Path

from diffusion_lab.reports.command import main

CONF = Path(__file__).resolve().parent / "conf"

if __name__ == "__main__":
    sys.exit(main(conf=CONF))
