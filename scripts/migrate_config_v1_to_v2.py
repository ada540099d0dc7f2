#!/usr/bin/env python3
"""Migrate a settings file from V1 to V2: `diffusion-lab migrate`, without an installation."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from diffusion_lab.commands.migrate import main

if __name__ == "__main__":
    sys.exit(main())
