"""Sample images from a checkpoint: ``diffusion-lab sample``, and ``sample.py`` in a checkout."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from omegaconf import DictConfig

from diffusion_lab.cli.compose import SHORT_NAMES, compose_generate_config
from diffusion_lab.cli.key_locations import job_key_locations
from diffusion_lab.cli.launch import Program, launch
from diffusion_lab.config.schema import GenerateConfig
from diffusion_lab.console.terminal import printable, quiet_broken_pipe
from diffusion_lab.runtime.exit_on_signals import exit_on_signals


def run(composed: DictConfig) -> None:
    """Generate with the composed settings, all faults of which are reported before any heavy import."""
    config = compose_generate_config(composed)
    from diffusion_lab.generation.generate import generate

    is_override = job_key_locations().is_set_by_override
    typed = any(map(is_override, ("guidance_scale", "generation.sampling.guidance_scale")))
    made = generate(config, guidance_typed=typed)
    print(printable(made))
    if config.generation.wandb != "never":
        from diffusion_lab.tracking.generations import log_generation

        log_generation(config, made)


PROGRAM = Program("sample", run, compose_generate_config, GenerateConfig, SHORT_NAMES)


@quiet_broken_pipe()
def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line (default: that of this process)."""
    with exit_on_signals():
        launch(PROGRAM, sys.argv[1:] if arguments is None else arguments)
