"""Write a page about runs, as `diffusion-lab report` does. `--help` explains the arguments."""

import sys

from diffusion_lab.commands.report import main

if __name__ == "__main__":
    sys.exit(main())
