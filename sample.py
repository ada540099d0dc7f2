"""Sample images from a checkpoint. `python sample.py --help` lists the common commands."""

from __future__ import annotations

from pathlib import Path

import hydra
from omegaconf import DictConfig

from diffusion_lab.cli.compose import compose_generate_config
from diffusion_lab.cli.key_locations import job_key_locations
from diffusion_lab.cli.launch import launch
from diffusion_lab.cli.report import run_and_report
from diffusion_lab.console.terminal import printable
from diffusion_lab.runtime.exit_on_signals import exit_on_signals
from diffusion_lab.sweeps.jobs import run_job

CONF = Path(__file__).resolve().parent / "conf"


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="sample")
def main(composed: DictConfig) -> None:
    """Check the settings, then generate."""
    run_and_report(lambda: run_job(run, composed))


def run(composed: DictConfig) -> None:
    """Generate with the composed settings, all faults of which are reported before any heavy import."""
    config = compose_generate_config(composed)
    from diffusion_lab.generation.generate import generate

    is_override = job_key_locations().is_set_by_override
    typed = any(map(is_override, ("guidance_scale", "generation.sampling.guidance_scale")))
    print(printable(generate(config, guidance_typed=typed)))


if __name__ == "__main__":
    with exit_on_signals():
        launch(main, compose_generate_config, CONF, "sample")
