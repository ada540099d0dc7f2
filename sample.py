"""Make images from a checkpoint. `python sample.py --help` lists the common commands."""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from diffusion_lab.config.compose import compose_generate_config
from diffusion_lab.config.report import run_and_report


@hydra.main(version_base="1.3", config_path="conf", config_name="sample")
def main(composed: DictConfig) -> None:
    """Check the settings, then hand them over."""
    run_and_report(lambda: run(composed))


def run(composed: DictConfig) -> None:
    """Generate as composed. All faults of the settings are reported before anything heavy is imported."""
    config = compose_generate_config(composed)
    from diffusion_lab.generate import generate

    made = generate(config)
    print(f"{made.count} images in {made.folder}", *filter(None, (made.grid, made.npz)), sep="\n")


if __name__ == "__main__":
    main()
