"""``python -m diffusion_lab.doctor`` is ``diffusion-lab doctor``."""

import sys

from diffusion_lab.commands.doctor import main

if __name__ == "__main__":
    sys.exit(main())
