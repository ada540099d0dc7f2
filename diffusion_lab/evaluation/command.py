"""What ``evaluate.py`` does: find or make the images, measure them, and show and write what was found."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from diffusion_lab.atomic_files import check_writable
from diffusion_lab.config.compose_evaluation import EvaluationRequest
from diffusion_lab.devices import resolve_device, use_threads
from diffusion_lab.evaluation.checkpoint_evaluation import evaluate_points, prepare
from diffusion_lab.evaluation.evaluator import MeasureSettings
from diffusion_lab.evaluation.folder_evaluation import evaluate_sources
from diffusion_lab.evaluation.progress import Reporter
from diffusion_lab.evaluation.report import KEY, write_results
from diffusion_lab.evaluation.result import Result
from diffusion_lab.evaluation.table import print_results
from diffusion_lab.evaluation.targets import find_targets, folder_elsewhere
from diffusion_lab.generation.exit_on_signals import Terminated
from diffusion_lab.terminal import printable
from diffusion_lab.threads import choose_threads


@dataclass(frozen=True)
class Evaluation:
    """What a command found, and the files that it wrote."""

    results: tuple[Result, ...]
    files: tuple[Path, ...]


def evaluate(request: EvaluationRequest, reporter: Reporter | None = None) -> Evaluation:
    """Evaluate as asked for, and write the results.

    Args:
        request: The checked settings.
        reporter: Says on standard error what is being done.

    Raises:
        ValueError, OSError: Naming key, value and rule.
    """
    results, folder = find_results(request, reporter or Reporter())
    return Evaluation(results, tuple(write_results(results, folder)))


def find_results(request: EvaluationRequest, reporter: Reporter) -> tuple[tuple[Result, ...], Path]:
    """Evaluate as asked for; only images and measurements are written.

    Returns:
        The results, and the folder that they belong into.

    Raises:
        ValueError, OSError: Naming key, value and rule.
    """
    config = request.config
    device, threads = resolve_device(config.compute.device), config.compute.threads
    given = config.evaluation
    settings = MeasureSettings(given.metrics, given.features, given.weights, given.sha256, given.cache_dir, device)
    if threads == "auto":
        threads = choose_threads(None, torch.get_num_threads()) if device.type == "cpu" else torch.get_num_threads()
    with use_threads(threads), _saying_how_to_go_on():
        if request.points:
            paths = list(dict.fromkeys(point.config.generation.checkpoint for point in request.points))
            targets, folder = find_targets([path for path in paths if path is not None], config.output.base_dir)
            for place in {folder, *(target.folder for target in targets)}:
                check_writable(place, KEY)
            works = prepare(targets, request.points, config, settings, reporter)
            return tuple(evaluate_points(request.points, works, reporter)), folder
        samples = given.samples if isinstance(given.samples, tuple) else (given.samples,)
        named = [path for path in samples if path is not None]
        checkpoint = config.generation.checkpoint
        against = given.reference or (checkpoint if isinstance(checkpoint, Path) else None)
        folder = config.output.base_dir or folder_elsewhere(named, against)
        check_writable(folder, KEY)
        return tuple(evaluate_sources(named, config, settings, folder, reporter)), folder


def show(evaluation: Evaluation) -> None:
    """Print the tables and the names of the files to standard output."""
    print_results(evaluation.results, Console())  # as wide as the terminal; 80 columns, or $COLUMNS, in a pipe
    for file in evaluation.files:
        print(printable(file))


@contextlib.contextmanager
def _saying_how_to_go_on() -> Iterator[None]:
    """Say of an interrupted command that it can be continued."""
    try:
        yield
    except (KeyboardInterrupt, Terminated) as stop:
        if not getattr(stop, "__notes__", ()):
            stop.add_note("the same command again goes on with the images and measurements that are finished")
        raise
