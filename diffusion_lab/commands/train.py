"""Train a diffusion model: ``diffusion-lab train``, and ``train.py`` in a checkout."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from omegaconf import DictConfig

from diffusion_lab.cli.compose import compose_train_config
from diffusion_lab.cli.launch import Program, launch
from diffusion_lab.config.schema import TrainConfig
from diffusion_lab.console.command_line import CONF
from diffusion_lab.console.messages import sentence
from diffusion_lab.console.terminal import printable, quiet_broken_pipe
from diffusion_lab.sweeps.jobs import SweepCallback
from diffusion_lab.sweeps.summary import EXIT_CODE_OF_FAILURES


def run(composed: DictConfig) -> None:
    """Train with the composed settings, all faults of which are reported before any heavy import."""
    start(compose_train_config(composed))


def start(config: TrainConfig) -> None:
    """Train, or do instead what ``preview`` and ``tune`` ask for."""
    if not config.is_trained:
        from diffusion_lab.preview.instead_of_training import run_instead_of_training

        run_instead_of_training(config)
        return
    from diffusion_lab.training.fit import train

    train(config)


PROGRAM = Program("train", run, compose_train_config, TrainConfig)


@quiet_broken_pipe()
def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line (default: that of this process). A sweep ends with a page about its runs."""
    try:
        launch(PROGRAM, sys.argv[1:] if arguments is None else arguments)
    except SystemExit as stop:
        if stop.code == EXIT_CODE_OF_FAILURES:  # not after a signal, which must not wait
            write_sweep_report()
        raise
    write_sweep_report()


def write_sweep_report() -> None:
    """Write the report of the sweep that this process has run, if it has run one, and print where it is."""
    folder = SweepCallback.folder
    if folder is None or not folder.is_dir():
        return
    from diffusion_lab.reports.build import Report

    report = Report([folder], conf=CONF)
    try:
        report.write()
    except (ValueError, OSError) as error:  # the results are complete without it
        print(f"Warning: {sentence(f'the report of the sweep could not be written: {error}')}", file=sys.stderr)
    else:
        print(printable(f"look at all jobs side by side: {report.file}"), file=sys.stderr)
        from diffusion_lab.tracking.sweep_report import log_sweep_report

        log_sweep_report(folder)
