"""The jobs of a sweep: each keeps a record in its folder, by which a sweep is summed up and gone on with."""

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

from diffusion_lab.atomic_files import atomic_write
from diffusion_lab.config import job_lock
from diffusion_lab.config.comparable import measured_by
from diffusion_lab.config.compose import resolved, sweep_job_or
from diffusion_lab.config.evaluated_metrics import is_evaluated, watched_direction
from diffusion_lab.config.faults import traceback_note
from diffusion_lab.config.job_record import (
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
from diffusion_lab.config.optuna_study import OPTUNA_SWEEPER, prepare_study
from diffusion_lab.config.schema import TrainConfig, root_of
from diffusion_lab.config.settings_reader import SettingsReader, Unreadable
from diffusion_lab.config.spelling import spell_as_the_schema_does
from diffusion_lab.config.sweep_signals import (
    JobInterrupted,
    SweepSignals,
    check_not_stopped,
    leave_if_abandoned,
    stopping_by_signals,
    this_sweep,
    why_stopped,
)
from diffusion_lab.messages import explain, sentence
from diffusion_lab.redaction import redacted, redacted_command, secret_values, without_values
from diffusion_lab.run_files import SUMMARY
from diffusion_lab.safe_files import read_json

BASIC_LAUNCHER = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"
BASIC_SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"
HYDRAS_RECORD = "multirun.yaml"
EVALUATION = "evaluation.json"
DISTANCES = ("kid", "fd")
"""Metrics by which evaluations are ranked; the first that was computed counts."""

NAMED_KEYS = 5  # how many differing keys a message names before it only counts
WAIT_SECONDS = 1.0


class SweepCallback(Callback):
    """Notes that a sweep begins, and which of its overrides do not vary, so that the jobs' folders need not name them.

    Attributes:
        folder: That of the sweep which this process runs; None where it runs none.
        signals: What listens to the signals meanwhile.
        ends_at_failure: Whether this is a search that a failed trial ends.
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
        last = {override.key_or_group: override for override in typed}  # of several for a key the last one counts
        constant = [f"'{key}'" for key, override in last.items() if not override.is_sweep_override()]
        with read_write(config.hydra.overrides), open_dict(config.hydra.overrides):
            config.hydra.overrides.hydra.append(
                f"hydra.job.config.override_dirname.exclude_keys=[{','.join(constant)}]"
            )


def run_job(run: Callable[[DictConfig], None], composed: DictConfig) -> float | None:
    """Run what was composed; as a job of a sweep, keep its record, skip it if it is finished, else go on with it.

    Returns:
        As a job of a sweep: the best value of the metric, also of a job that is skipped, for sweepers that search for
        the best. None of a run by itself, and of images made.

    Raises:
        ValueError: The job's folder holds the job of other settings, finished or with checkpoints.
        JobInterrupted: A signal stopped the job, in another process than that of the sweep.
    """
    name = sweep_job_or("")
    if not name:
        run(composed)
        return None
    if SweepCallback.folder is not None:  # this is the process of the sweep
        return _do_job(run, composed, Path(name))
    leave_if_abandoned()
    try:
        with stopping_by_signals():
            return _do_job(run, composed, Path(name))
    except Exception as error:
        raise _portable(error) from error
    finally:
        leave_if_abandoned()


def _portable(error: Exception) -> Exception:
    """The exception as another process can read it: one that it cannot would end all jobs of the launcher."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        kind = next(
            kind for kind in (ValueError, OSError, RuntimeError) if isinstance(error, kind) or kind is RuntimeError
        )
        return kind(f"{type(error).__name__}: {error}")
    return error


def _do_job(run: Callable[[DictConfig], None], composed: DictConfig, folder: Path) -> float | None:
    tree = resolved(composed, [])
    spell_as_the_schema_does(tree, root_of(tree))  # the job of AdamW is that of adamw
    secrets = _secrets(tree)
    _hide(secrets, folder.parent / HYDRAS_RECORD)
    settings = redacted({key: value for key, value in tree.items() if key != "output"}, secrets)
    _refuse_without_value(tree)
    overwrite = _may_overwrite(tree)
    if not overwrite and not (folder / RECORD).exists():
        for other in sorted(folder.parent.iterdir()):  # a command that varied other keys named its folders otherwise
            record = JobRecord.read(other)
            if record is not None and record.state == FINISHED and not record.differing(settings):
                with contextlib.suppress(OSError):
                    folder.rmdir()  # Hydra made it for this job
                return _skipped(other, record)
    with _claimed(folder):
        before = JobRecord.read(folder)
        if not overwrite and before is not None and before.state == FINISHED:
            _refuse_others(before, settings, folder)
            return _skipped(folder, before)
        if not overwrite and before is not None and before.state in (INTERRUPTED, DIED) and _has_saved(tree):
            _refuse_others(before, settings, folder)  # to start afresh would replace what it has saved
        if before is not None and before.state != FINISHED:
            _go_on(composed, tree, same=not before.differing(settings))
        record = JobRecord(varying_overrides(), RUNNING, settings, JobProcess.this(), this_sweep())
        record.write(folder)
        return _run_and_record(lambda: run(composed), record, folder, secrets)


def _secrets(tree: Mapping[str, Any]) -> frozenset[str]:
    """The secrets in the settings and on the command line, Hydra's own keys included."""
    overrides = HydraConfig.get().overrides
    return secret_values(tree, [*overrides.task, *overrides.hydra, *sys.argv])


def _hide(secrets: Collection[str], file: Path) -> None:
    """Take secrets out of the file in which Hydra has written the command of the sweep."""
    with contextlib.suppress(OSError, ValueError):  # it is there for people alone
        text = file.read_text(encoding="utf-8") if secrets else ""
        if (hidden := without_values(text, secrets)) != text:
            with atomic_write(file, lasting=False) as partial:
                partial.write_text(hidden, encoding="utf-8")


def _skipped(folder: Path, record: JobRecord) -> float | None:
    print(sentence(f"{folder.name}: finished already, skipped"), file=sys.stderr)
    return record.best_value


@contextlib.contextmanager
def _claimed(folder: Path) -> Iterator[None]:
    """Keep other processes from the job; wait for one that is at it.

    That may be the job of another command with the same folder, or of one whose own process was killed, while those of
    its launcher go on.

    Raises:
        ValueError: It cannot be known whether a process is at it.
    """
    told = False
    while (lock := job_lock.take(folder)) is not job_lock.Lock.OURS:
        record = JobRecord.read(folder)
        if lock is job_lock.Lock.UNSUPPORTED:
            if record is None or record.state != RUNNING:
                break
            if record.process is not None and record.process.is_alive() is None:
                raise ValueError(
                    f"the job {folder} is being run by {record.process}, as its record says; from here that cannot be "
                    f"checked, on a file system without locks. If that process is gone, remove {folder / RECORD}"
                )
        if not told:
            who = "another process" if record is None or record.process is None else str(record.process)
            pid = "PID" if record is None or record.process is None else record.process.pid
            text = (
                f"{folder.name}: {who} is running this job already, for another command or for one that was killed; "
                f"waiting for its result. `kill {pid}` there lets it save and stop, and the job goes on here"
            )
            print(sentence(text), file=sys.stderr)
            told = True
        check_not_stopped(folder.parent)
        time.sleep(WAIT_SECONDS)
    try:
        yield
    finally:
        job_lock.release(folder)


def varying_overrides() -> tuple[str, ...]:
    """The overrides of the running job in which the jobs of its sweep may differ."""
    hydra = HydraConfig.get()
    constant = set(hydra.job.config.override_dirname.exclude_keys)
    overrides: Sequence[str] = hydra.overrides.task
    varying = [override for override in overrides if override.lstrip("+~").partition("=")[0] not in constant]
    return tuple(redacted_command(varying))


def _refuse_others(before: JobRecord, settings: Mapping[str, Any], folder: Path) -> None:
    differing = before.differing(settings)
    if differing:
        more = [f"{len(differing) - NAMED_KEYS} more"] if len(differing) > NAMED_KEYS else []
        state = before.state if before.state == FINISHED else "unfinished"
        why = (
            f"the {state} job {folder} had other settings ({'; '.join([*differing[:NAMED_KEYS], *more])}): "
            "choose another hydra.sweep.dir, or set output.overwrite=true"
        )
        with contextlib.suppress(OSError):  # for the table alone; a sweep that can only be read stays as it is
            replace(before, refusal=Refusal(this_sweep(), varying_overrides(), why)).write(folder)
        raise ValueError(why)


def _refuse_without_value(tree: Mapping[str, Any]) -> None:
    """Raise ValueError where a sweeper that searches for the best value would get none, or search the other way."""
    if HydraConfig.get().sweeper._target_ == BASIC_SWEEPER:
        return
    name = HydraConfig.get().runtime.choices.get("hydra/sweeper", "this sweeper")
    if tree.get("mode") != "train":
        raise ValueError(f"hydra/sweeper={name} searches by the value that a job returns, and only train.py has one")
    with contextlib.suppress(Unreadable):
        reader = SettingsReader(tree, TrainConfig)
        is_evaluation = reader["evaluation.enabled"] and is_evaluated(reader["training.validation.metric"])
        if reader["training.validation.enabled"] is False and not is_evaluation:
            raise ValueError(
                f"training.validation.enabled must be true with hydra/sweeper={name}, which searches by the best value "
                "of the validation metric"
            )
        better = {"min": "minimize", "max": "maximize"}[watched_direction(reader.section("training.validation"))]
        given = HydraConfig.get().sweeper.get("direction", better)
        direction = getattr(given, "name", given)  # Optuna's own are of an Enum
        if direction != better:
            raise ValueError(
                f"hydra.sweeper.direction must be {better}, as training.validation.mode says, or the metric where "
                f"that is null, got {direction}"
            )


def _may_overwrite(tree: Mapping[str, Any]) -> bool:
    with contextlib.suppress(Unreadable):
        return SettingsReader(tree, TrainConfig)["output.overwrite"] is True
    return False


def _has_saved(tree: Mapping[str, Any]) -> bool:
    """Whether the folder of a run of training holds a checkpoint."""
    reader = SettingsReader(tree, TrainConfig)
    with contextlib.suppress(Unreadable, TypeError):
        checkpoints = Path(reader["output.base_dir"]) / reader["output.subdirs.checkpoints"]
        return reader["mode"] == "train" and any(checkpoints.glob("*.ckpt"))
    return False


def _go_on(composed: DictConfig, tree: Mapping[str, Any], same: bool) -> None:
    """Let a run of training begin where it ended; afresh, where it saved nothing or had other settings.

    What cannot be read is left for the check of the settings to report.
    """
    reader = SettingsReader(tree, TrainConfig)
    with contextlib.suppress(Unreadable, TypeError):
        if reader["mode"] != "train" or reader["training.resume.enabled"] is not False:
            return
        if same and _has_saved(tree):
            OmegaConf.update(composed, "training.resume", {"enabled": True, "checkpoint": "auto"})
        else:
            OmegaConf.update(composed, "output.overwrite", True)


def _run_and_record(run: Callable[[], None], record: JobRecord, folder: Path, secrets: Collection[str]) -> float | None:
    try:
        check_not_stopped(folder.parent)  # now that the process of the sweep sees the record, should it stop
        run()
    except JobInterrupted as stop:
        replace(record, state=INTERRUPTED, why=str(stop)).write(folder)
        raise
    except Exception as error:
        expected = isinstance(error, ValueError | OSError)  # else it is a fault of the code
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
        return _evaluated(folder)
    try:
        summary = read_json(folder / SUMMARY)
        found = {"metric": summary["metric"], "best_value": summary["best_value"]}
    except (OSError, ValueError, KeyError, TypeError):
        return {}  # generation has none
    return found | {"measured": measured_by(record.settings, summary)}


def _evaluated(folder: Path) -> dict[str, Any]:
    """The distance that an evaluation found, and what it is a measure of; nothing where it has several results."""
    try:
        (result,) = read_json(folder / EVALUATION)["results"]
        rows = {row["metric"]: row for row in result["measurement"]["rows"]}
        row = next(rows[name] for name in DISTANCES if name in rows)
        conditions = {name: value for name, value in result["conditions"].items() if value is not None}
        return {"metric": row["name"], "best_value": row["estimate"]["value"], "measured": conditions}
    except (OSError, ValueError, KeyError, TypeError, StopIteration):
        return {}
