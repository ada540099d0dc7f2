"""Jobs of a sweep: each has a record in its folder, from which the sweep is summarized and resumed."""

from __future__ import annotations

import contextlib
import pickle
import sys
import time
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from diffusion_lab.config.schema import TrainConfig, root_of
from diffusion_lab.console.command_line import program_name
from diffusion_lab.console.messages import explain, sentence
from diffusion_lab.console.redaction import redacted, redacted_command, secret_values, without_values
from diffusion_lab.faults import CommandError, traceback_note
from diffusion_lab.faults.unresolved import resolved
from diffusion_lab.files.reading import read_json
from diffusion_lab.files.run_files import SUMMARY
from diffusion_lab.files.writing import atomic_write
from diffusion_lab.metric_names import is_evaluated, validation_direction
from diffusion_lab.sweeps import job_lock
from diffusion_lab.sweeps.comparable import measured_by
from diffusion_lab.sweeps.folders import sweep_job_or
from diffusion_lab.sweeps.job_record import (
    DIED,
    FAILED,
    FINISHED,
    INTERRUPTED,
    RECORD,
    RUNNING,
    JobProcess,
    JobRecord,
    Refusal,
)
from diffusion_lab.sweeps.optuna_study import OPTUNA_SWEEPER, prepare_study
from diffusion_lab.sweeps.signals import (
    JobInterrupted,
    SweepSignals,
    check_not_stopped,
    exit_if_abandoned,
    stopping_by_signals,
    this_sweep,
    why_stopped,
)
from diffusion_lab.typed_settings.settings_reader import SettingsReader, Unreadable
from diffusion_lab.typed_settings.spelling import normalize_spelling

BASIC_LAUNCHER = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"
BASIC_SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"
HYDRA_RECORD = "multirun.yaml"
EVALUATION = "evaluation.json"
DISTANCES = ("kid", "fd")
"""Metrics that rank evaluations; the first one that was computed is used."""

NOT_OF_A_JOB = ("output", "preview", "tune")
"""Sections that its record omits: the folder, and what is done instead of a run."""

ONE_AT_A_TIME = (
    "preview and tune are for a single run, and the jobs of a sweep are recorded as runs: leave out -m, and choose one "
    "value of each setting"
)

NAMED_KEYS = 5  # differing keys that a message names; further ones are counted
WAIT_SECONDS = 1.0


class SweepCallback(Callback):
    """Records the start of a sweep and the overrides that do not vary, which the names of job folders omit.

    Attributes:
        folder: Folder of the sweep that this process runs, or None.
        signals: Signal handling during the sweep.
        ends_at_failure: Whether this is a search that ends when a trial fails.
    """

    folder: Path | None = None
    signals: SweepSignals | None = None
    ends_at_failure = False

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        launches = config.hydra.launcher._target_ != BASIC_LAUNCHER
        ends_with_sweep = not launches or "joblib" in config.hydra.launcher._target_.lower()
        SweepCallback.folder = Path(config.hydra.sweep.dir)
        SweepCallback.signals = SweepSignals(SweepCallback.folder, launches, outlived=not ends_with_sweep)
        SweepCallback.signals.listen()
        searches = config.hydra.sweeper._target_ == OPTUNA_SWEEPER
        SweepCallback.ends_at_failure = searches and config.hydra.sweeper.max_failure_rate < 1
        if searches:
            prepare_study(config)
        typed = OverridesParser.create().parse_overrides(list(config.hydra.overrides.task))
        last = {override.key_or_group: override for override in typed}  # the last override of a key counts
        constant = [f"'{key}'" for key, override in last.items() if not override.is_sweep_override()]
        with read_write(config.hydra.overrides), open_dict(config.hydra.overrides):
            config.hydra.overrides.hydra.append(
                f"hydra.job.config.override_dirname.exclude_keys=[{','.join(constant)}]"
            )


def run_job(run: Callable[[DictConfig], None], composed: DictConfig) -> float | None:
    """Run composed settings; a job of a sweep keeps a record, and is skipped if finished, else resumed.

    Returns:
        For a job of a sweep, even a skipped one: the best value of the metric, for sweepers that search for the best.
        None for a single run, and for image generation.

    Raises:
        ValueError: The folder contains a job with other settings, finished or with checkpoints.
        JobInterrupted: A signal stopped the job, in a process other than the sweep's.
    """
    name = sweep_job_or("")
    if not name:
        run(composed)
        return None
    if composed.get("preview") or any((composed.get("tune") or {}).values()):
        raise CommandError(ONE_AT_A_TIME)
    if SweepCallback.folder is not None:  # this is the process of the sweep
        return _run_locked(run, composed, Path(name))
    exit_if_abandoned()
    try:
        with stopping_by_signals():
            return _run_locked(run, composed, Path(name))
    except Exception as error:
        raise _picklable(error) from error
    finally:
        exit_if_abandoned()


def _picklable(error: Exception) -> Exception:
    """Return an exception that can be unpickled: any other would end all jobs of the launcher."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        kind = next(
            kind for kind in (ValueError, OSError, RuntimeError) if isinstance(error, kind) or kind is RuntimeError
        )
        return kind(f"{type(error).__name__}: {error}")
    return error


def _run_locked(run: Callable[[DictConfig], None], composed: DictConfig, folder: Path) -> float | None:
    tree = resolved(composed, [])
    normalize_spelling(tree, root_of(tree))  # AdamW and adamw are the same job
    secrets = _secrets(tree)
    _remove_secrets(secrets, folder.parent / HYDRA_RECORD)
    settings = redacted({key: value for key, value in tree.items() if key not in NOT_OF_A_JOB}, secrets)
    _refuse_without_value(tree)
    overwrite = _may_overwrite(tree)
    if not overwrite and not (folder / RECORD).exists():
        for other in sorted(folder.parent.iterdir()):  # named differently by a command that varied other keys
            record = JobRecord.read(other)
            if record is not None and record.state == FINISHED and not record.differing(settings):
                with contextlib.suppress(OSError):
                    folder.rmdir()  # created by Hydra for this job
                return _skip(other, record)
    with _job_lock(folder):
        before = JobRecord.read(folder)
        if not overwrite and before is not None and before.state == FINISHED:
            _refuse_other_settings(before, settings, folder)
            return _skip(folder, before)
        if not overwrite and before is not None and before.state in (INTERRUPTED, DIED) and _has_checkpoint(tree):
            _refuse_other_settings(before, settings, folder)  # a fresh start would overwrite its checkpoints
        if before is not None and before.state != FINISHED:
            _resume(composed, tree, same=not before.differing(settings))
        record = JobRecord(varying_overrides(), RUNNING, settings, JobProcess.this(), this_sweep())
        record.write(folder)
        return _run_and_record(lambda: run(composed), record, folder, secrets)


def _secrets(tree: Mapping[str, Any]) -> frozenset[str]:
    """Return the secrets in the settings and on the command line, Hydra's own keys included."""
    overrides = HydraConfig.get().overrides
    return secret_values(tree, [*overrides.task, *overrides.hydra, *sys.argv])


def _remove_secrets(secrets: Collection[str], file: Path) -> None:
    """Remove secrets from the file in which Hydra has written the command of the sweep."""
    with contextlib.suppress(OSError, ValueError):  # the file is only informative
        text = file.read_text(encoding="utf-8") if secrets else ""
        if (hidden := without_values(text, secrets)) != text:
            with atomic_write(file, durable=False) as partial:
                partial.write_text(hidden, encoding="utf-8")


def _skip(folder: Path, record: JobRecord) -> float | None:
    print(sentence(f"{folder.name}: already finished, skipped"), file=sys.stderr)
    return record.best_value


@contextlib.contextmanager
def _job_lock(folder: Path) -> Iterator[None]:
    """Hold the lock of a job; wait for another process that runs it.

    That may be the job of another command with the same folder, or a job whose sweep was killed while the processes of
    its launcher continue.

    Raises:
        ValueError: It cannot be determined whether another process runs the job.
    """
    reported = False
    while (lock := job_lock.take(folder)) is not job_lock.Lock.OURS:
        record = JobRecord.read(folder)
        if lock is job_lock.Lock.UNSUPPORTED:
            if record is None or record.state != RUNNING:
                break
            if record.process is not None and record.process.is_alive() is None:
                raise ValueError(
                    f"the job {folder} is being run by {record.process}, according to its record; this cannot be "
                    "checked from here, on a file system without locks. If that process is gone, remove "
                    f"{folder / RECORD}"
                )
        if not reported:
            runner = "another process" if record is None or record.process is None else str(record.process)
            pid = "PID" if record is None or record.process is None else record.process.pid
            text = (
                f"{folder.name}: {runner} is already running this job, for another command or for one that was killed; "
                f"waiting for its result. `kill {pid}` there lets it save and stop, and the job continues here"
            )
            print(sentence(text), file=sys.stderr)
            reported = True
        check_not_stopped(folder.parent)
        time.sleep(WAIT_SECONDS)
    try:
        yield
    finally:
        job_lock.release(folder)


def varying_overrides() -> tuple[str, ...]:
    """Return the overrides of the running job that may vary between the jobs of its sweep."""
    hydra = HydraConfig.get()
    constant = set(hydra.job.config.override_dirname.exclude_keys)
    overrides: Sequence[str] = hydra.overrides.task
    varying = [override for override in overrides if override.lstrip("+~").partition("=")[0] not in constant]
    return tuple(redacted_command(varying))


def _refuse_other_settings(before: JobRecord, settings: Mapping[str, Any], folder: Path) -> None:
    differing = before.differing(settings)
    if differing:
        more = [f"{len(differing) - NAMED_KEYS} more"] if len(differing) > NAMED_KEYS else []
        state = before.state if before.state == FINISHED else "unfinished"
        why = (
            f"the {state} job {folder} had other settings ({'; '.join([*differing[:NAMED_KEYS], *more])}): "
            "choose another hydra.sweep.dir, or set output.overwrite=true"
        )
        with contextlib.suppress(OSError):  # only for the table; a read-only sweep stays unchanged
            replace(before, refusal=Refusal(this_sweep(), varying_overrides(), why)).write(folder)
        raise ValueError(why)


def _refuse_without_value(tree: Mapping[str, Any]) -> None:
    """Raise ValueError if a sweeper that searches would get no value, or optimize in the wrong direction."""
    if HydraConfig.get().sweeper._target_ == BASIC_SWEEPER:
        return
    name = HydraConfig.get().runtime.choices.get("hydra/sweeper", "this sweeper")
    if tree.get("mode") != "train":
        raise ValueError(
            f"hydra/sweeper={name} optimizes the value that a job returns, and only {program_name('train')} has one"
        )
    with contextlib.suppress(Unreadable):
        reader = SettingsReader(tree, TrainConfig)
        is_evaluation = reader["evaluation.enabled"] and is_evaluated(reader["training.validation.metric"])
        if reader["training.validation.enabled"] is False and not is_evaluation:
            raise ValueError(
                f"training.validation.enabled must be true with hydra/sweeper={name}, which optimizes the best value "
                "of the validation metric"
            )
        better = {"min": "minimize", "max": "maximize"}[validation_direction(reader.section("training.validation"))]
        configured = HydraConfig.get().sweeper.get("direction", better)
        direction = getattr(configured, "name", configured)  # Optuna's directions are an Enum
        if direction != better:
            raise ValueError(
                f"hydra.sweeper.direction must be {better}, as training.validation.mode says, or the metric if "
                f"that is null, got {direction}"
            )


def _may_overwrite(tree: Mapping[str, Any]) -> bool:
    with contextlib.suppress(Unreadable):
        return SettingsReader(tree, TrainConfig)["output.overwrite"] is True
    return False


def _has_checkpoint(tree: Mapping[str, Any]) -> bool:
    """Return whether the folder of a training run contains a checkpoint."""
    reader = SettingsReader(tree, TrainConfig)
    with contextlib.suppress(Unreadable, TypeError):
        checkpoints = Path(reader["output.base_dir"]) / reader["output.subdirs.checkpoints"]
        return reader["mode"] == "train" and any(checkpoints.glob("*.ckpt"))
    return False


def _resume(composed: DictConfig, tree: Mapping[str, Any], same: bool) -> None:
    """Let a training run resume from its last checkpoint, or restart if it saved none or had other settings.

    Invalid keys are left to the validation of the settings.
    """
    reader = SettingsReader(tree, TrainConfig)
    with contextlib.suppress(Unreadable, TypeError):
        if reader["mode"] != "train" or reader["training.resume.enabled"] is not False:
            return
        if same and _has_checkpoint(tree):
            OmegaConf.update(composed, "training.resume", {"enabled": True, "checkpoint": "auto"})
        else:
            OmegaConf.update(composed, "output.overwrite", True)


def _run_and_record(run: Callable[[], None], record: JobRecord, folder: Path, secrets: Collection[str]) -> float | None:
    try:
        check_not_stopped(folder.parent)  # from here on the process of the sweep sees the record
        run()
    except JobInterrupted as stop:
        replace(record, state=INTERRUPTED, why=str(stop)).write(folder)
        raise
    except Exception as error:
        expected = isinstance(error, ValueError | OSError)  # otherwise a bug
        why = without_values(explain(error) if expected else f"{type(error).__name__}: {error}", secrets)
        replace(record, state=FAILED, why=why).write(folder)
        if not expected and traceback_note(error) is None:
            traceback.print_exc()
        raise
    except BaseException as error:
        why = why_stopped(error) or f"{type(error).__name__} {error}".strip()
        replace(record, state=INTERRUPTED, why=why).write(folder)
        raise
    done = replace(record, state=FINISHED, **_result(record, folder))
    done.write(folder)
    return done.best_value


def _result(record: JobRecord, folder: Path) -> dict[str, Any]:
    if record.settings.get("mode") == "evaluate":
        return _evaluation_result(folder)
    try:
        summary = read_json(folder / SUMMARY)
        result = {"metric": summary["metric"], "best_value": summary["best_value"]}
    except (OSError, ValueError, KeyError, TypeError):
        return {}  # generation has no result
    return result | {"measured": measured_by(record.settings, summary)}


def _evaluation_result(folder: Path) -> dict[str, Any]:
    """Return the distance that an evaluation computed and its conditions; empty if there are several results."""
    try:
        (result,) = read_json(folder / EVALUATION)["results"]
        rows = {row["metric"]: row for row in result["measurement"]["rows"]}
        row = next(rows[name] for name in DISTANCES if name in rows)
        conditions = {name: value for name, value in result["conditions"].items() if value is not None}
        return {"metric": row["name"], "best_value": row["estimate"]["value"], "measured": conditions}
    except (OSError, ValueError, KeyError, TypeError, StopIteration):
        return {}
