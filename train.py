"""Train a diffusion model. `python train.py --help` lists the groups and the common commands."""

from __future__ import annotations

from pathlib import Path

import hydra
from omegaconf import DictConfig

from diffusion_lab.cli.compose import compose_train_config
from diffusion_lab.cli.launch import launch
from diffusion_lab.cli.report import run_and_report
from diffusion_lab.sweeps.jobs import run_job

CONF = Path(__file__).resolve().parent / "conf"


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")
def main(composed: DictConfig) -> float | None:
    """Check the settings, then train. Return the best value, for sweepers that search, such as Optuna's."""
    return run_and_report(lambda: run_job(run, composed))


def run(composed: DictConfig) -> None:
    """Train with the composed settings, all faults of which are reported before any heavy import."""
    config = compose_train_config(composed)
    from diffusion_lab.training.fit import train

    train(config)


if __name__ == "__main__":
    launch(main, compose_train_config, CONF, "train")
