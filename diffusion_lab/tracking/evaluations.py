"""Results of ``evaluate.py`` on W&B."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffusion_lab.cli.compose_evaluation import EvaluationRequest
from diffusion_lab.evaluation.command import Evaluation
from diffusion_lab.evaluation.result import Result
from diffusion_lab.evaluation.targets import find_targets
from diffusion_lab.files.run_files import find_run_folder
from diffusion_lab.tracking.results_run import failing_with_a_warning, results_run
from diffusion_lab.tracking.wandb_run import wandb_library

TABLE = "evaluation/results"
NEAREST = "evaluation/nearest"
CURVES = "evaluation/curves"
"""Keys on W&B. A metric of an evaluation is ``evaluation/`` and its name: ``evaluation/kid_digits``."""

COLUMNS = ("samples", "metric", "value", "low", "high", "real images", "better")


@failing_with_a_warning
def log_evaluation(request: EvaluationRequest, evaluation: Evaluation) -> None:
    """Add results to the runs of their checkpoints, as ``generation.wandb`` says. A failure gives a warning."""
    wanted, folder = request.config.generation.wandb, evaluation.files[0].parent
    if wanted == "never":
        return
    paths = {point.config.generation.checkpoint: None for point in request.points}
    checkpoints = [path for path in paths if path is not None]
    targets = find_targets(checkpoints, request.config.output.base_dir)[0] if checkpoints else []  # else folders
    runs = {target.name: find_run_folder(target.checkpoint) for target in targets}
    curves = [file for file in evaluation.files if file.name.startswith("curves")]
    by_run: dict[Path | None, list[Result]] = {}
    for result in evaluation.results:
        by_run.setdefault(runs.get(result.name), []).append(result)
    for run_folder, results in by_run.items():
        with results_run(run_folder, wanted, "evaluate", folder) as run:
            if run is not None:
                _send_results(run, results, curves if len(by_run) == 1 else [])


def _send_results(run: Any, results: Sequence[Result], curves: Sequence[Path]) -> None:
    wandb = wandb_library()
    table = wandb.Table(columns=list(COLUMNS))
    for result in results:
        numbers = {f"evaluation/{key}": value for key, value in result.varying.items() if _is_number(value)}
        for row in result.rows:
            table.add_data(_title(result), row.name, row.value, row.low, row.high, row.null, row.better)
        run.log({**numbers, **{f"evaluation/{row.name}": row.value for row in result.rows}})
    pictures: Mapping[str, list[Any]] = {
        NEAREST: [
            wandb.Image(result.pictures["nearest"], caption=_title(result))
            for result in results
            if "nearest" in result.pictures
        ],
        CURVES: [wandb.Image(str(file), caption=file.stem) for file in curves],
    }
    run.log({TABLE: table, **{key: images for key, images in pictures.items() if images}})


def _title(result: Result) -> str:
    """Describe how the images were made."""
    made = result.samples
    parts = [made.get("sampler"), f"{made['steps']} steps" if "steps" in made else None]
    parts += [f"{key.rpartition('.')[2]} {value}" for key, value in result.varying.items() if key != "sampler.steps"]
    return ", ".join(str(part) for part in parts if part) or result.name


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
