"""The jobs of a sweep: each keeps a record in its folder, by which a sweep is summed up and gone on with."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from diffusion_lab.config.compose import resolved, sweep_job_or
from diffusion_lab.config.faults import shown
from diffusion_lab.config.reading import SettingsReader, Unreadable, leaves
from diffusion_lab.config.schema import TrainConfig

RECORD = "job.json"
RUNNING, FINISHED, FAILED, INTERRUPTED, DIED = "running", "finished", "failed", "interrupted", "died"
NAMED_KEYS = 5  # how many differing keys a message names before it only counts
ABSENT = "nothing"


@dataclass(frozen=True)
class JobRecord:
    """``job.json``: what a job was asked to do, and how it ended."""

    overrides: tuple[str, ...]
    """Those in which the jobs of the sweep may differ."""
    state: str
    pid: int
    settings: dict[str, Any]
    """All that was composed, but for the section ``output``."""
    why: str | None = None
    metric: str | None = None
    best_value: float | None = None

    @classmethod
    def read(cls, folder: Path) -> JobRecord | None:
        """The record in a job's folder, None where there is none to read."""
        try:
            record = cls(**json.loads((folder / RECORD).read_text()))
        except (OSError, ValueError, TypeError):
            return None
        return record if record.state != RUNNING or _is_alive(record.pid) else replace(record, state=DIED)

    def write(self, folder: Path) -> None:
        """Replace the record in one move."""
        partial = folder / f".{RECORD}.partial"
        partial.write_text(json.dumps(asdict(self), indent=2) + "\n")
        partial.replace(folder / RECORD)

    def differing(self, settings: Mapping[str, Any]) -> list[str]:
        """The keys whose values were others, in words."""
        then, now = leaves(self.settings), leaves(settings)
        keys = [key for key in now.keys() | then.keys() if now.get(key, ABSENT) != then.get(key, ABSENT)]
        return [f"{key} {shown(then.get(key, ABSENT))}, now {shown(now.get(key, ABSENT))}" for key in sorted(keys)]


class SweepCallback(Callback):
    """Notes that a sweep begins, and which of its overrides do not vary, so that the jobs' folders need not name them.

    Attributes:
        folder: That of the sweep which this process runs; None where it runs none.
    """

    folder: Path | None = None

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        SweepCallback.folder = Path(config.hydra.sweep.dir)
        typed = OverridesParser.create().parse_overrides(list(config.hydra.overrides.task))
        constant = [f"'{override.key_or_group}'" for override in typed if not override.is_sweep_override()]
        with read_write(config.hydra.overrides), open_dict(config.hydra.overrides):
            config.hydra.overrides.hydra.append(
                f"hydra.job.config.override_dirname.exclude_keys=[{','.join(constant)}]"
            )


def run_job(run: Callable[[DictConfig], None], composed: DictConfig) -> None:
    """Run what was composed; as a job of a sweep, keep its record, skip it if it is finished, else go on with it.

    Raises:
        ValueError: The job's folder holds the finished job of other settings.
    """
    name = sweep_job_or("")
    if not name:
        run(composed)
        return
    folder = Path(name)
    tree = resolved(composed, [])
    settings = {key: value for key, value in tree.items() if key != "output"}
    before = JobRecord.read(folder)
    if not _may_overwrite(tree):
        done = _done(settings, folder, before)
        if done is not None:
            print(f"{done.name}: finished already, skipped", file=sys.stderr)
            return
    if before is not None and before.state != FINISHED:
        _go_on(composed, tree, same=not before.differing(settings))
    record = JobRecord(varying_overrides(), RUNNING, os.getpid(), settings)
    record.write(folder)
    _run_and_record(lambda: run(composed), record, folder)


def varying_overrides() -> tuple[str, ...]:
    """The overrides of the running job in which the jobs of its sweep may differ."""
    hydra = HydraConfig.get()
    constant = set(hydra.job.config.override_dirname.exclude_keys)
    overrides: Sequence[str] = hydra.overrides.task
    return tuple(override for override in overrides if override.lstrip("+~").partition("=")[0] not in constant)


def _done(settings: Mapping[str, Any], folder: Path, before: JobRecord | None) -> Path | None:
    """Where the job of these settings is finished: in its folder, or in that of a command which varied other keys."""
    if before is None:
        for other in sorted(folder.parent.iterdir()):
            record = JobRecord.read(other)
            if record is not None and record.state == FINISHED and not record.differing(settings):
                with contextlib.suppress(OSError):
                    folder.rmdir()  # Hydra made it for this job
                return other
        return None
    if before.state == RUNNING:
        raise ValueError(f"the job {folder} is being run by process {before.pid}")
    differing = before.differing(settings) if before.state == FINISHED else []
    if differing:
        more = [f"{len(differing) - NAMED_KEYS} more"] if len(differing) > NAMED_KEYS else []
        raise ValueError(
            f"the finished job {folder} had other settings ({'; '.join([*differing[:NAMED_KEYS], *more])}): "
            "choose another hydra.sweep.dir, or set output.overwrite=true"
        )
    return folder if before.state == FINISHED else None


def _may_overwrite(tree: Mapping[str, Any]) -> bool:
    with contextlib.suppress(Unreadable):
        return SettingsReader(tree, TrainConfig)["output.overwrite"] is True
    return False


def _go_on(composed: DictConfig, tree: Mapping[str, Any], same: bool) -> None:
    """Let a run of training begin where it ended; afresh, where it saved nothing or had other settings.

    What cannot be read is left for the check of the settings to report.
    """
    reader = SettingsReader(tree, TrainConfig)
    with contextlib.suppress(Unreadable, TypeError):
        if reader["mode"] != "train" or reader["training.resume.enabled"] is not False:
            return
        base = Path(reader["output.base_dir"])
        saved = any((base / reader["output.subdirs.checkpoints"]).glob("*.ckpt"))
        if same and saved:
            OmegaConf.update(composed, "training.resume", {"enabled": True, "checkpoint": "auto"})
        else:
            OmegaConf.update(composed, "output.overwrite", True)


def _run_and_record(run: Callable[[], None], record: JobRecord, folder: Path) -> None:
    try:
        run()
    except Exception as error:
        explained = isinstance(error, ValueError | OSError)  # else it is a fault of the code
        why = str(error) if explained else f"{type(error).__name__}: {error}"
        replace(record, state=FAILED, why=why).write(folder)
        if not explained:
            traceback.print_exc()
        raise
    except BaseException as error:
        replace(record, state=INTERRUPTED, why=f"{type(error).__name__} {error}".strip()).write(folder)
        raise
    replace(record, state=FINISHED, **_result(folder)).write(folder)


def _result(folder: Path) -> dict[str, Any]:
    try:
        summary = json.loads((folder / "summary.json").read_text())
        return {"metric": summary["metric"], "best_value": summary["best_value"]}
    except (OSError, ValueError, KeyError):
        return {}  # generation has none


def _is_alive(pid: int) -> bool:
    if pid == os.getpid():  # which runs no other job beside this
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
