"""Evaluate the quality of images, as `diffusion-lab evaluate` does. `--help` lists the common commands."""

from diffusion_lab.commands.evaluate import main

if __name__ == "__main__":
    main()
