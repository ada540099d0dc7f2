"""``python -m diffusion_lab.checkpoint`` is ``diffusion-lab checkpoint``."""

import sys

from diffusion_lab.commands.checkpoint import main

if __name__ == "__main__":
    sys.exit(main())
