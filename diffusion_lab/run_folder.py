"""The folder of a run: where things go, what explains them, and how the run stands."""

from __future__ import annotations

import contextlib
import json
import os
import warnings
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import yaml

from diffusion_lab.atomic_files import atomic_write, check_writable, naming_folder_in_errors, remove_partial_files
from diffusion_lab.checkpoint.files import BEST, named_steps, steps_in
from diffusion_lab.checkpoint.ownership import (
    blocking_entries,
    is_plain_file,
    listed,
    listed_names,
    make_way,
    not_replaceable,
    refuse,
)
from diffusion_lab.command_line import without_references
from diffusion_lab.config.faults import TRACEBACK_NOTE, ConfigWarning
from diffusion_lab.config.schema import OutputSettings
from diffusion_lab.environment import environment
from diffusion_lab.epoch_images import epoch_of, is_epoch_picture
from diffusion_lab.folder_lock import check_unused, held, in_use_error
from diffusion_lab.messages import explain
from diffusion_lab.process_identity import is_alive, own_identity
from diffusion_lab.redaction import without_values
from diffusion_lab.run_files import CONFIG, ENVIRONMENT, LOG, METRICS, STATUS, SUMMARY, WANDB_ID_FILE
from diffusion_lab.run_log import is_complete_log, recorded
from diffusion_lab.run_status import write_status
from diffusion_lab.safe_files import read_json
from diffusion_lab.terminal import printable


class RunStopped(SystemExit):
    """The run ends early because it was asked to, which is no failure; the process ends with the exit code.

    Args:
        why: Who asked.
        code: The exit code.
        step: Optimizer steps that are saved, None where this time nothing was.
    """

    def __init__(self, why: str, code: int, step: int | None) -> None:
        super().__init__(code)
        self.why, self.step = why, step


Purpose = Literal["new", "replace", "continue"]
"""What a run wants of a folder: begin in a free one, take the place of the run in it, or go on with that run."""


@dataclass(frozen=True)
class RunFolder:
    """``output.base_dir`` and its subfolders.

    ``config.yaml`` is the resolved configuration, ``environment.json`` the versions and the git commit, and
    ``status.json`` tells whether the run is running, finished, stopped or failed, and why.

    Attributes:
        run_id: Of the run that works in it; its checkpoints carry it, so that only that run ever removes them.
    """

    base: Path
    logs: Path
    checkpoints: Path
    samples: Path
    run_id: str | None = None

    @classmethod
    def of(cls, output: OutputSettings) -> RunFolder:
        """The folder of the settings; nothing is created."""
        base, names = output.base_dir, output.subdirs
        return cls(base, base / names.logs, base / names.checkpoints, base / names.samples)

    @property
    def folders(self) -> tuple[Path, ...]:
        """The folder and its subfolders that a run writes into."""
        return self.base, self.logs, self.checkpoints, self.samples

    def holds(self, file: Path) -> bool:
        """Whether a file lies in the folder, at any depth."""
        return self.base.resolve() in file.resolve().parents

    @property
    def status(self) -> dict[str, Any]:
        """What ``status.json`` says; empty where there is none, or none of a run."""
        with contextlib.suppress(OSError, ValueError):
            found = read_json(self.base / STATUS)
            if isinstance(found, dict) and isinstance(found.get("state"), str):
                return found
        return {}

    def check_free(self, purpose: Purpose) -> None:
        """Refuse a folder that another process uses, or that cannot be written, or where something is in the way.

        Raises:
            ValueError: There is a run already, one that is going on, or something that a run did not write.
            PermissionError: The folder, or the nearest one above it that exists, cannot be written.
        """
        check_unused(self.base, "output.base_dir")
        status = self.status
        if status.get("state") == "running" and status.get("pid") != os.getpid() and is_alive(status):
            raise in_use_error(self.base, "output.base_dir", f"process {status['pid']} on {status['host']}")
        self._refuse_what_is_no_file()
        there = self._written_before()
        if purpose == "new" and there:
            raise ValueError(self._taken(there))
        if purpose == "replace" and there and not self._is_a_run():
            raise ValueError(
                printable(
                    f"output.base_dir holds {listed_names(there)}, and nothing shows that a run wrote this, got "
                    f"{str(self.base)!r}: move it away, or choose another folder"
                )
            )
        check_writable(self.base, "output.base_dir")
        for folder, name in zip(self.folders[1:], ("logs", "checkpoints", "samples"), strict=True):
            check_writable(folder, f"output.subdirs.{name}")

    def check_places(self, purpose: Purpose, steps: range, epochs: range) -> None:
        """Refuse to write where something is that the run did not write.

        Args:
            purpose: Of the run.
            steps: At which it may save checkpoints.
            epochs: At whose end it may sample pictures, counted from 1.

        Raises:
            ValueError: Naming what is in the way.
        """
        pictures = [file for file in self._pictures() if not is_epoch_picture(file)]
        if purpose == "continue":
            obstacles = blocking_entries(self.checkpoints, self.run_id, steps.start - 1, steps.stop - 1)
            pictures = [file for file in pictures if epoch_of(file) in epochs]
        else:
            obstacles = not_replaceable(self.checkpoints, self._earlier_runs())
        refuse([*obstacles, *pictures])

    def stamp(self) -> int | None:
        """Changes whenever a run begins or ends in the folder."""
        status = self.base / STATUS
        return status.stat().st_mtime_ns if status.is_file() else None

    @contextlib.contextmanager
    def claimed(self, stamp: int | None) -> Iterator[None]:
        """Keep other processes out of the folder.

        Args:
            stamp: That of the folder when the decision was made to use it.

        Raises:
            ValueError: Another process has it, or had it since then.
        """
        with held(self.base, "output.base_dir"):
            if self.stamp() != stamp:
                raise ValueError(
                    f"output.base_dir was used by another process just now, got {str(self.base)!r}: start again"
                )
            yield

    def create(self, config: dict[str, Any], keep: bool) -> None:
        """Make the folders and write what explains the run; what an earlier run wrote is removed, or kept.

        Raises:
            OSError: Naming ``output.base_dir``: the folder cannot be made or written, or its disk is full.
        """
        with naming_folder_in_errors(self.base, "output.base_dir"):
            self._create(config, keep)

    def _create(self, config: dict[str, Any], keep: bool) -> None:
        for folder in self.folders:
            folder.mkdir(parents=True, exist_ok=True)
        if not keep:
            self._remove_earlier()
        remove_partial_files(self.base)
        with atomic_write(self.base / ENVIRONMENT, lasting=False) as file:  # first: it shows that this is a run's
            file.write_text(json.dumps(environment(), indent=2) + "\n")
        with atomic_write(self.base / CONFIG, lasting=False) as file:
            file.write_text(
                "# The resolved configuration of this run.\n"
                + yaml.safe_dump(_without_references(config), sort_keys=False, allow_unicode=True)
            )

    def restore(self, config: dict[str, Any]) -> None:
        """Make again what was removed of the folder while the run is on.

        Raises:
            ValueError: Another run works in the folder by now.
        """
        if self._is_taken_over():
            raise ValueError(
                f"output.base_dir was taken over by another run while this one was on, got {str(self.base)!r}"
            )
        if not all(place.exists() for place in (*self.folders, self.base / CONFIG, self.base / STATUS)):
            self.create(config, keep=True)
            self.write_status("running")

    def write_status(self, state: str, **more: Any) -> None:
        """Replace ``status.json`` in one move; on a full disk its bytes are written over."""
        at = datetime.now(UTC).isoformat(timespec="seconds")
        status = {"state": state, **own_identity(), "at": at, "run": self.run_id, **more}
        write_status(self.base / STATUS, status)

    @contextlib.contextmanager
    def running(self, secrets: Collection[str] = ()) -> Iterator[None]:
        """Keep ``status.json`` and ``logs/run.log`` while the run goes on; a failure is recorded and raised again.

        The traceback of a failure goes to ``run.log`` alone; a note on the exception says so.

        Args:
            secrets: Texts that neither file may hold.
        """
        with recorded(self.logs / LOG, secrets) as log:
            self.write_status("running")
            try:
                yield
            except RunStopped as stop:
                self._record("stopped", why=stop.why, step=stop.step)
                log.info("the run stopped after step %s: %s", stop.step, stop.why)
                raise
            except BaseException as error:
                said = explain(error) if isinstance(error, OSError) else error
                self._record("failed", why=without_values(f"{type(error).__name__}: {said}", secrets))
                log.exception("the run failed")
                if is_complete_log(log):
                    error.add_note(f"{TRACEBACK_NOTE} {self.logs / LOG}")
                raise
            else:
                self._record("finished")

    def _record(self, state: str, **more: Any) -> None:
        """Write how the run ended; that it cannot be written must not hide how it did."""
        if self._is_taken_over():
            return
        try:
            self.base.mkdir(parents=True, exist_ok=True)
            self.write_status(state, **more)
        except OSError as error:
            warnings.warn(
                f"{self.base / STATUS} cannot be written ({error.strerror}), so it does not say that the run {state}",
                ConfigWarning,
                stacklevel=2,
            )

    def _is_taken_over(self) -> bool:
        """Whether another run works in the folder by now."""
        return bool(self.status.get("run", self.run_id) != self.run_id)

    def _refuse_what_is_no_file(self) -> None:
        """Refuse links, which would be written through to files elsewhere, and folders and devices."""
        files = [*self._fixed(), *self._pictures(), self.logs / WANDB_ID_FILE]
        mirrors = [self.logs / "wandb", self.logs / "tensorboard"]  # what else is wrong there ends no run
        wrong = [place for place in files if not is_plain_file(place)]
        for place in (*wrong, *(place for place in mirrors if place.is_symlink())):
            if os.path.lexists(place):
                what = f"a link to {os.readlink(place)}" if place.is_symlink() else "no regular file"
                raise ValueError(
                    printable(
                        f"{place} is in the way: a run writes something of that name, and it is {what}. Move it away, "
                        "or choose another output.base_dir"
                    )
                )

    def _fixed(self) -> list[Path]:
        """The files of a run that have one name in every run."""
        names = (STATUS, CONFIG, ENVIRONMENT, SUMMARY)
        return [*(self.base / name for name in names), self.logs / METRICS, self.logs / LOG]

    def _pictures(self) -> list[Path]:
        return [place for place in sorted(self.samples.glob("epoch_*.png")) if epoch_of(place) is not None]

    def _written_before(self) -> list[Path]:
        """What is there under the names that a run writes."""
        fixed = [place for place in self._fixed() if place.exists()]
        return [*fixed, *named_steps(self.checkpoints), *self._pictures()]

    def _is_a_run(self) -> bool:
        """Whether something shows that what is in the folder is of a run: its status, environment or checkpoints."""
        if self.status or steps_in(self.checkpoints):
            return True
        with contextlib.suppress(OSError, ValueError):
            told = read_json(self.base / ENVIRONMENT)
            return isinstance(told, dict) and {"command", "packages"} <= told.keys()
        return False

    def _taken(self, there: list[Path]) -> str:
        state = self.status.get("state", "in an unknown state")
        what = f"a run already ({state})" if (self.base / STATUS).exists() else f"{listed_names(there)} already"
        return printable(
            f"output.base_dir holds {what}, got {str(self.base)!r}: choose another, resume it "
            "(training.resume.enabled=true training.resume.checkpoint=auto), or set output.overwrite=true"
        )

    def _earlier_runs(self) -> set[str | None]:
        """The ids of the runs whose checkpoints may be replaced with the run that is in the folder."""
        if self.status:
            return {self.status.get("run")}
        return {manifest.run for file in steps_in(self.checkpoints) if (manifest := listed(file))}

    def _remove_earlier(self) -> None:
        runs = self._earlier_runs()
        for file in [self.checkpoints / BEST, *named_steps(self.checkpoints)]:
            make_way(file, *runs)
            file.unlink(missing_ok=True)
        pictures = [picture for picture in self._pictures() if is_epoch_picture(picture)]
        for file in (*pictures, self.logs / METRICS, self.base / SUMMARY):
            file.unlink(missing_ok=True)


def _without_references(value: Any) -> Any:
    """Resolved settings as a settings file holds them: a ``${`` in a text is that text, and no reference."""
    if isinstance(value, dict):
        return {key: _without_references(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_without_references(entry) for entry in value]
    return without_references(value) if isinstance(value, str) else value
