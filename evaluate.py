"""Evaluate the quality of images. `python evaluate.py --help` lists the common commands."""

from __future__ import annotations

from pathlib import Path

import hydra
from omegaconf import DictConfig

from diffusion_lab.cli.compose_evaluation import compose_evaluate_config
from diffusion_lab.cli.launch import launch
from diffusion_lab.cli.report import run_and_report
from diffusion_lab.runtime.exit_on_signals import exit_on_signals
from diffusion_lab.sweeps.jobs import run_job

CONF = Path(__file__).resolve().parent / "conf"


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="evaluate")
def main(composed: DictConfig) -> None:
    """Check the settings, then run the evaluation."""
    run_and_report(lambda: run_job(run, composed))


def run(composed: DictConfig) -> None:
    """Evaluate with the composed settings. All their faults are reported before anything heavy is imported."""
    request = compose_evaluate_config(composed)
    from diffusion_lab.evaluation.command import evaluate, print_evaluation

    print_evaluation(evaluate(request))


if __name__ == "__main__":
    with exit_on_signals():
        launch(main, compose_evaluate_config, CONF, "evaluate")
