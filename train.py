"""Train a diffusion model, as `diffusion-lab train` does. `--help` lists the groups and the common commands."""

from diffusion_lab.commands.train import main

if __name__ == "__main__":
    main()
