"""Sample images from a checkpoint, as `diffusion-lab sample` does. `--help` lists the common commands."""

from diffusion_lab.commands.sample import main

if __name__ == "__main__":
    main()
