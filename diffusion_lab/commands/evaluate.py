"""Evaluate the quality of images: ``diffusion-lab evaluate``, and ``evaluate.py`` in a checkout."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from omegaconf import DictConfig

from diffusion_lab.cli.compose_evaluation import EVALUATE_SHORT_NAMES, compose_evaluate_config
from diffusion_lab.cli.evaluate_schema import EvaluateConfig
from diffusion_lab.cli.launch import Program, launch
from diffusion_lab.console.terminal import quiet_broken_pipe
from diffusion_lab.runtime.exit_on_signals import exit_on_signals


def run(composed: DictConfig) -> None:
    """Evaluate with the composed settings. All their faults are reported before anything heavy is imported."""
    request = compose_evaluate_config(composed)
    from diffusion_lab.evaluation.command import evaluate, print_evaluation

    evaluation = evaluate(request)
    print_evaluation(evaluation)
    if request.config.generation.wandb != "never":
        from diffusion_lab.tracking.evaluations import log_evaluation

        log_evaluation(request, evaluation)


PROGRAM = Program("evaluate", run, compose_evaluate_config, EvaluateConfig, EVALUATE_SHORT_NAMES)


@quiet_broken_pipe()
def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line (default: that of this process)."""
    with exit_on_signals():
        launch(PROGRAM, sys.argv[1:] if arguments is None else arguments)
