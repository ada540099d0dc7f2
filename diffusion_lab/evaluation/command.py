"""Implementation of ``evaluate.py``: read or generate images, evaluate them, print and write the results."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from diffusion_lab.cli.compose_evaluation import EvaluationRequest
from diffusion_lab.console.terminal import printable
from diffusion_lab.evaluation.checkpoint_evaluation import evaluate_points, prepare_checkpoints
from diffusion_lab.evaluation.evaluator import MeasureSettings
from diffusion_lab.evaluation.folder_evaluation import evaluate_sources
from diffusion_lab.evaluation.progress import Reporter
from diffusion_lab.evaluation.report import KEY, write_results
from diffusion_lab.evaluation.result import Result
from diffusion_lab.evaluation.table import print_results
from diffusion_lab.evaluation.targets import default_results_folder, find_targets
from diffusion_lab.files.writing import check_writable
from diffusion_lab.runtime.devices import resolve_device, use_threads
from diffusion_lab.runtime.exit_on_signals import Terminated
from diffusion_lab.runtime.threads import choose_threads


@dataclass(frozen=True)
class Evaluation:
    """Results of a command, and the files that it wrote."""

    results: tuple[Result, ...]
    files: tuple[Path, ...]


def evaluate(request: EvaluationRequest, reporter: Reporter | None = None) -> Evaluation:
    """Evaluate as requested, and write the results.

    Args:
        request: The validated settings.
        reporter: Prints progress to standard error.

    Raises:
        ValueError, OSError: A setting cannot be used; the message has its key, its value and the rule.
    """
    results, folder = find_results(request, reporter or Reporter())
    return Evaluation(results, tuple(write_results(results, folder)))


def find_results(request: EvaluationRequest, reporter: Reporter) -> tuple[tuple[Result, ...], Path]:
    """Evaluate as requested; only images and measurements are written.

    Returns:
        The results, and the folder to write them to.

    Raises:
        ValueError, OSError: A setting cannot be used; the message has its key, its value and the rule.
    """
    config = request.config
    device, threads = resolve_device(config.compute.device), config.compute.threads
    section = config.evaluation
    settings = MeasureSettings(
        section.metrics, section.features, section.weights, section.sha256, section.cache_dir, device
    )
    if threads == "auto":
        threads = choose_threads(None, torch.get_num_threads()) if device.type == "cpu" else torch.get_num_threads()
    with use_threads(threads), _note_on_interruption():
        if request.points:
            paths = list(dict.fromkeys(point.config.generation.checkpoint for point in request.points))
            targets, folder = find_targets([path for path in paths if path is not None], config.output.base_dir)
            for output_folder in {folder, *(target.folder for target in targets)}:
                check_writable(output_folder, KEY)
            checkpoints = prepare_checkpoints(targets, request.points, config, settings, reporter)
            return tuple(evaluate_points(request.points, checkpoints, reporter)), folder
        paths_or_none = section.samples if isinstance(section.samples, tuple) else (section.samples,)
        samples = [path for path in paths_or_none if path is not None]
        checkpoint = config.generation.checkpoint
        reference = section.reference or (checkpoint if isinstance(checkpoint, Path) else None)
        folder = config.output.base_dir or default_results_folder(samples, reference)
        check_writable(folder, KEY)
        return tuple(evaluate_sources(samples, config, settings, folder, reporter)), folder


def print_evaluation(evaluation: Evaluation) -> None:
    """Print the tables and the names of the files to standard output."""
    print_results(evaluation.results, Console())  # as wide as the terminal; 80 columns, or $COLUMNS, in a pipe
    for file in evaluation.files:
        print(printable(file))


@contextlib.contextmanager
def _note_on_interruption() -> Iterator[None]:
    """Add a note to the exception of an interrupted command: how to continue."""
    try:
        yield
    except (KeyboardInterrupt, Terminated) as stop:
        if not getattr(stop, "__notes__", ()):
            stop.add_note("run the same command again to continue with the finished images and measurements")
        raise
