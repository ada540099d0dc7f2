"""``python -m diffusion_lab.features`` is ``diffusion-lab features``."""

from diffusion_lab.commands.features import main

if __name__ == "__main__":
    main()
