"""Reading a run folder: whatever is damaged, half written or missing becomes a note, never an error."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import yaml

from diffusion_lab.console.redaction import redacted, redacted_command, secret_values, without_values
from diffusion_lab.files.reading import read_json, read_regular
from diffusion_lab.files.run_files import CONFIG, ENVIRONMENT, LOG, METRICS, STATUS, SUMMARY
from diffusion_lab.reports.curves import read_curves
from diffusion_lab.reports.quality import EVALUATION, QualityFile, read_quality
from diffusion_lab.reports.records import Job, Picture, RunRecord, count
from diffusion_lab.reports.sampled_files import sampled_pictures
from diffusion_lab.reports.yaml_settings import read_yaml
from diffusion_lab.runs.epoch_images import epoch_of
from diffusion_lab.runtime.process_identity import is_alive
from diffusion_lab.sweeps.job_record import RECORD, JobRecord
from diffusion_lab.typed_settings.settings_reader import leaves

MAX_LOG_BYTES = 64 * 2**20
LOG_LINES = 60
"""Lines of ``run.log`` that the report shows."""

LONGEST_LINE = 2000
RESULTS = ("epochs", "steps", "best_value", "best_epoch", "train_seconds", "images_per_second", "peak_memory_mb")
"""Keys of ``summary.json`` that change when a run is resumed."""

BEST = "best.ckpt"
"""Link to the best checkpoint; ``diffusion_lab.checkpoint`` names it, too, but imports torch."""

SUBFOLDERS = ("logs", "checkpoints", "samples")


def read_run(folder: Path, name: str) -> RunRecord:
    """Return the record of a run folder."""
    run = RunRecord(folder, name)
    settings = _read(run, CONFIG, read_yaml)
    command = _command(run)
    record = JobRecord.read(folder) if (folder / RECORD).is_file() else None
    if (folder / RECORD).is_file() and record is None:
        run.notes.append(f"{RECORD} is not a record of a job")
    if not settings and record is not None:
        settings = record.settings
    secrets = secret_values(settings, command)
    run.tree = redacted(settings, secrets)
    run.settings = leaves(run.tree)
    run.environment = _hidden(run.environment, secrets)
    run.status = _hidden(_read(run, STATUS, read_json), secrets)
    run.summary = _hidden(_read(run, SUMMARY, read_json), secrets)
    if record is not None:
        overrides = tuple(redacted_command(record.overrides))
        run.job = Job(overrides, record.state, _hidden(record.why, secrets), record.measured)
    logs, checkpoints, samples = (folder / _subfolder(settings, part) for part in SUBFOLDERS)
    _read_metrics(run, logs / METRICS)
    _leave_out_earlier_results(run)
    run.log = [without_values(line, secrets) for line in _log_lines(run, logs / LOG)]
    run.pictures = _epoch_pictures(samples)
    run.has_checkpoint = any(checkpoints.glob("step_*.ckpt")) if checkpoints.is_dir() else False
    run.sampled, run.sampled_from = sampled_pictures(folder, _best_checkpoint_hash(checkpoints))
    results = read_results(folder, run.notes)
    if results is not None:
        run.quality, run.nearest = results.rows, results.nearest
    if run.status.get("state") == "running" and is_alive(run.status) is False:
        run.status = {**run.status, "state": "died", "why": "its process ended without a message"}
    return run


def read_results(folder: Path, notes: list[str]) -> QualityFile | None:
    """Return the results of ``evaluate.py`` in the folder of a run or a sweep; None if there are none."""
    file = folder / EVALUATION
    if not file.is_file() or file.is_symlink():
        return None
    try:
        return read_quality(file)
    except (OSError, ValueError) as error:
        notes.append(f"{EVALUATION} cannot be read: {_reason(error)}")
        return None


def _read(run: RunRecord, name: str, parse: Callable[[Path], Any]) -> dict[str, Any]:
    """Return the mapping in a file of the run folder; empty, with a note, if it cannot be read."""
    file = run.folder / name
    if not _is_shown(run, file):
        return {}
    try:
        content = parse(file)
    except (OSError, ValueError, yaml.YAMLError) as error:
        run.notes.append(f"{name} cannot be read: {_reason(error)}")
        return {}
    if not isinstance(content, dict):
        run.notes.append(f"{name} cannot be read: it has no keys")
        return {}
    return content


def _is_shown(run: RunRecord, file: Path) -> bool:
    """Return whether a file exists and is no link: a run writes none, and one could show any file of the reader."""
    if file.is_symlink():
        run.notes.append(f"{file.name} is a link, which is not followed")
        return False
    return file.exists()


def _reason(error: Exception) -> str:
    """Return the reason of an error on one line, without the path of the file."""
    if isinstance(error, yaml.MarkedYAMLError):
        line = "" if error.problem_mark is None else f", line {error.problem_mark.line + 1}"
        return f"not valid YAML ({error.problem}{line})"
    if isinstance(error, OSError):
        return error.strerror or str(error).split("\n")[0]
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8"
    text = str(error).split("\n")[0]
    return f"not valid JSON: {text.partition('not valid JSON: ')[2]}" if "not valid JSON: " in text else text


def _command(run: RunRecord) -> list[str]:
    """Read ``environment.json`` into the run, and return the words of its command."""
    environment = _read(run, ENVIRONMENT, read_json)
    command = environment.get("command")
    words = [str(word) for word in command] if isinstance(command, list) else []
    run.environment = {**environment, "command": redacted_command(words)}
    return words


def _subfolder(settings: Mapping[str, Any], part: str) -> str:
    """Return the name of a subfolder; a name that leaves the run folder is ignored."""
    section = settings.get("output")
    names = section.get("subdirs") if isinstance(section, Mapping) else None
    name = names.get(part) if isinstance(names, Mapping) else None
    if isinstance(name, str) and name and not Path(name).is_absolute() and ".." not in Path(name).parts:
        return name
    return part


def _read_metrics(run: RunRecord, file: Path) -> None:
    if not _is_shown(run, file):
        return
    try:
        run.curves, run.epoch_ends, note = read_curves(file)
    except OSError as error:
        run.notes.append(f"{file.name} cannot be read: {_reason(error)}")
        return
    run.notes.extend([note] if note else [])


def _leave_out_earlier_results(run: RunRecord) -> None:
    """Leave out the results in ``summary.json`` that are of an earlier end of a run that has been resumed."""
    steps, logged = count(run.summary.get("steps")), [curve.steps[-1] + 1 for curve in run.curves.values()]
    if steps is not None and max(logged, default=0) > steps:
        run.summary = {key: value for key, value in run.summary.items() if key not in RESULTS}


def _log_lines(run: RunRecord, file: Path) -> list[str]:
    if not _is_shown(run, file):
        return []
    try:
        text = read_regular(file, MAX_LOG_BYTES).decode("utf-8", "replace")
    except OSError as error:
        run.notes.append(f"{file.name} cannot be read: {_reason(error)}")
        return []
    return [line[:LONGEST_LINE] for line in text.splitlines()[-LOG_LINES:]]


def _epoch_pictures(folder: Path) -> list[Picture]:
    if not folder.is_dir():
        return []
    epochs = sorted((epoch, file) for file in folder.iterdir() if (epoch := epoch_of(file)) is not None)
    return [Picture(file, f"samples after epoch {epoch}", epoch) for epoch, file in epochs]


def _best_checkpoint_hash(folder: Path) -> str | None:
    """Return the SHA-256 of the best checkpoint, else of the newest, as its manifest records it; None if unknown."""
    best = folder / BEST
    newest = sorted(folder.glob("step_*.manifest.json"), key=lambda file: (len(file.name), file.name), reverse=True)
    for file in [best.resolve().with_suffix(".manifest.json")] if best.exists() else newest:
        try:
            manifest = read_json(file)
        except (OSError, ValueError):
            continue
        digest = manifest.get("sha256") if isinstance(manifest, dict) else None
        if isinstance(digest, str):
            return digest
    return None


def _hidden(tree: Any, secrets: Collection[str]) -> Any:
    """Return plain containers with the secrets removed from all strings."""
    if isinstance(tree, dict):
        return {key: _hidden(value, secrets) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_hidden(value, secrets) for value in tree]
    return without_values(tree, secrets) if isinstance(tree, str) else tree
