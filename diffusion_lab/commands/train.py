"""Train a diffusion model: ``diffusion-lab train``, and ``train.py`` in a checkout."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from omegaconf import DictConfig

from diffusion_lab.cli.compose import compose_train_config
from diffusion_lab.cli.launch import Program, launch
from diffusion_lab.config.schema import TrainConfig
from diffusion_lab.console.terminal import quiet_broken_pipe


def run(composed: DictConfig) -> None:
    """Train with the composed settings, all faults of which are reported before any heavy import."""
    config = compose_train_config(composed)
    from diffusion_lab.training.fit import train

    train(config)


PROGRAM = Program("train", run, compose_train_config, TrainConfig)


@quiet_broken_pipe()
def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line (default: that of this process)."""
    launch(PROGRAM, sys.argv[1:] if arguments is None else arguments)
