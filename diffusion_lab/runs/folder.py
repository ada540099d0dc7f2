"""Folder of a run: its subfolders, the files that describe the run, and its status."""

from __future__ import annotations

import contextlib
import json
import os
import warnings
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import yaml

from diffusion_lab.checkpoint.files import BEST, named_steps, steps_in
from diffusion_lab.checkpoint.ownership import (
    blocking_entries,
    format_paths,
    is_plain_file,
    manifest_or_none,
    not_replaceable,
    prepare_replacement,
    refuse_obstacles,
)
from diffusion_lab.config.schema import OutputSettings
from diffusion_lab.console.command_line import without_references
from diffusion_lab.console.messages import explain
from diffusion_lab.console.redaction import without_values
from diffusion_lab.console.terminal import printable
from diffusion_lab.faults import TRACEBACK_NOTE, ConfigWarning
from diffusion_lab.files.folder_lock import check_unused, hold_lock, in_use_error
from diffusion_lab.files.reading import read_json
from diffusion_lab.files.run_files import CONFIG, ENVIRONMENT, FACTS, LOG, METRICS, STATUS, SUMMARY, WANDB_ID_FILE
from diffusion_lab.files.writing import atomic_write, check_writable, name_folder_in_errors, remove_partial_files
from diffusion_lab.runs.epoch_images import epoch_of, is_epoch_image
from diffusion_lab.runs.log import is_complete_log, log_to_file
from diffusion_lab.runs.status import write_status
from diffusion_lab.runtime.environment import environment
from diffusion_lab.runtime.process_identity import is_alive, own_identity


class RunStopped(SystemExit):
    """Raised when the run ends early on request, which is not a failure; the process ends with the exit code.

    Args:
        why: Reason for the stop.
        code: The exit code.
        step: Number of optimizer steps in the saved checkpoint, None if none was saved.
    """

    def __init__(self, why: str, code: int, step: int | None) -> None:
        super().__init__(code)
        self.why, self.step = why, step


Purpose = Literal["new", "replace", "continue"]
"""Purpose of a folder for a run: start in a free one, replace the run in it, or continue that run."""


@dataclass(frozen=True)
class RunFolder:
    """``output.base_dir`` and its subfolders.

    ``config.yaml`` is the resolved configuration, ``environment.json`` holds the versions, the git commit and what is
    known of the run at its start, and ``status.json`` whether it is running, finished, stopped or failed, and why.

    Attributes:
        run_id: Id of the run that works in it; its checkpoints carry it, so that no other run removes them.
        facts: What is known of the run at its start: device, precision, size of the network, number of images, …
    """

    base: Path
    logs: Path
    checkpoints: Path
    samples: Path
    run_id: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_settings(cls, output: OutputSettings) -> RunFolder:
        """Return the folder of the settings; nothing is created."""
        base, names = output.base_dir, output.subdirs
        return cls(base, base / names.logs, base / names.checkpoints, base / names.samples)

    @property
    def folders(self) -> tuple[Path, ...]:
        """The folder and the subfolders that a run writes to."""
        return self.base, self.logs, self.checkpoints, self.samples

    def contains(self, file: Path) -> bool:
        """Return whether a file is in the folder, at any depth."""
        return self.base.resolve() in file.resolve().parents

    @property
    def status(self) -> dict[str, Any]:
        """Content of ``status.json``; empty if there is none, or it is not a run's."""
        with contextlib.suppress(OSError, ValueError):
            status = read_json(self.base / STATUS)
            if isinstance(status, dict) and isinstance(status.get("state"), str):
                return status
        return {}

    def check_free(self, purpose: Purpose) -> None:
        """Refuse a folder that another process uses, that is not writable, or that holds files in the way.

        Raises:
            ValueError: It holds a run, a running one, or something that no run wrote.
            PermissionError: The folder, or its nearest existing parent, is not writable.
        """
        check_unused(self.base, "output.base_dir")
        status = self.status
        if status.get("state") == "running" and status.get("pid") != os.getpid() and is_alive(status):
            raise in_use_error(self.base, "output.base_dir", f"process {status['pid']} on {status['host']}")
        self._refuse_irregular_files()
        existing = self._existing_files()
        if purpose == "new" and existing:
            raise ValueError(self._occupied_message(existing))
        if purpose == "replace" and existing and not self._holds_run():
            raise ValueError(
                printable(
                    f"output.base_dir holds {format_paths(existing)}, and nothing shows that a run wrote this, got "
                    f"{str(self.base)!r}: move it away, or choose another folder"
                )
            )
        check_writable(self.base, "output.base_dir")
        for folder, name in zip(self.folders[1:], ("logs", "checkpoints", "samples"), strict=True):
            check_writable(folder, f"output.subdirs.{name}")

    def check_obstacles(self, purpose: Purpose, steps: range, epochs: range) -> None:
        """Refuse to write where there are files that the run did not write.

        Args:
            purpose: How the run uses the folder.
            steps: Steps at which it may save checkpoints.
            epochs: Epochs after which it may sample images, counted from 1.

        Raises:
            ValueError: Naming the files in the way.
        """
        images = [file for file in self._epoch_images() if not is_epoch_image(file)]
        if purpose == "continue":
            obstacles = blocking_entries(self.checkpoints, self.run_id, steps.start - 1, steps.stop - 1)
            images = [file for file in images if epoch_of(file) in epochs]
        else:
            obstacles = not_replaceable(self.checkpoints, self._earlier_runs())
        refuse_obstacles([*obstacles, *images])

    def stamp(self) -> int | None:
        """Return a value that changes whenever a run starts or ends in the folder."""
        status = self.base / STATUS
        return status.stat().st_mtime_ns if status.is_file() else None

    @contextlib.contextmanager
    def claim(self, stamp: int | None) -> Iterator[None]:
        """Lock the folder against other processes.

        Args:
            stamp: Value of ``stamp()`` when the decision was made to use the folder.

        Raises:
            ValueError: Another process uses it, or has used it since then.
        """
        with hold_lock(self.base, "output.base_dir"):
            if self.stamp() != stamp:
                raise ValueError(
                    f"output.base_dir was used by another process just now, got {str(self.base)!r}: start again"
                )
            yield

    def create(self, config: dict[str, Any], keep: bool) -> None:
        """Create the folders and the files that describe the run; files of an earlier run are removed, or kept.

        Raises:
            OSError: Naming ``output.base_dir``: the folder cannot be created or written, or its disk is full.
        """
        with name_folder_in_errors(self.base, "output.base_dir"):
            self._create(config, keep)

    def _create(self, config: dict[str, Any], keep: bool) -> None:
        for folder in self.folders:
            folder.mkdir(parents=True, exist_ok=True)
        if not keep:
            self._remove_earlier()
        remove_partial_files(self.base)
        with atomic_write(self.base / ENVIRONMENT, durable=False) as file:  # first: it identifies the folder of a run
            known = environment() | ({FACTS: dict(self.facts)} if self.facts else {})
            file.write_text(json.dumps(known, indent=2) + "\n")
        with atomic_write(self.base / CONFIG, durable=False) as file:
            file.write_text(
                "# The resolved configuration of this run.\n"
                + yaml.safe_dump(_without_references(config), sort_keys=False, allow_unicode=True)
            )

    def restore(self, config: dict[str, Any]) -> None:
        """Re-create what was removed from the folder while the run is in progress.

        Raises:
            ValueError: Another run uses the folder now.
        """
        if self._is_taken_over():
            raise ValueError(
                f"output.base_dir was taken over by another run while this one was running, got {str(self.base)!r}"
            )
        if not all(path.exists() for path in (*self.folders, self.base / CONFIG, self.base / STATUS)):
            self.create(config, keep=True)
            self.write_status("running")

    def write_status(self, state: str, **more: Any) -> None:
        """Replace ``status.json`` atomically; on a full disk it is overwritten in place."""
        at = datetime.now(UTC).isoformat(timespec="seconds")
        status = {"state": state, **own_identity(), "at": at, "run": self.run_id, **more}
        write_status(self.base / STATUS, status)

    @contextlib.contextmanager
    def running(self, secrets: Collection[str] = ()) -> Iterator[None]:
        """Maintain ``status.json`` and ``logs/run.log`` during the run; a failure is recorded and re-raised.

        The traceback of a failure is written only to ``run.log``; a note on the exception says so.

        Args:
            secrets: Strings that neither file may contain.
        """
        with log_to_file(self.logs / LOG, secrets) as log:
            self.write_status("running")
            try:
                yield
            except RunStopped as stop:
                self._record("stopped", why=stop.why, step=stop.step)
                log.info("the run stopped after step %s: %s", stop.step, stop.why)
                raise
            except BaseException as error:
                message = explain(error) if isinstance(error, OSError) else error
                self._record("failed", why=without_values(f"{type(error).__name__}: {message}", secrets))
                log.exception("the run failed")
                if is_complete_log(log):
                    error.add_note(f"{TRACEBACK_NOTE} {self.logs / LOG}")
                raise
            else:
                self._record("finished")

    def _record(self, state: str, **more: Any) -> None:
        """Write how the run ended; an error while writing must not hide it."""
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
        """Return whether another run uses the folder now."""
        return bool(self.status.get("run", self.run_id) != self.run_id)

    def _refuse_irregular_files(self) -> None:
        """Refuse links, which would redirect writes to files elsewhere, and folders and devices."""
        files = [*self._fixed_files(), *self._epoch_images(), self.logs / WANDB_ID_FILE]
        mirrors = [self.logs / "wandb", self.logs / "tensorboard"]  # other problems there do not stop a run
        wrong = [path for path in files if not is_plain_file(path)]
        for path in (*wrong, *(path for path in mirrors if path.is_symlink())):
            if os.path.lexists(path):
                what = f"a link to {os.readlink(path)}" if path.is_symlink() else "not a regular file"
                raise ValueError(
                    printable(
                        f"{path} is in the way: a run writes a file or folder of that name, and it is {what}. Move it "
                        "away, or choose another output.base_dir"
                    )
                )

    def _fixed_files(self) -> list[Path]:
        """Return the files that have the same name in every run."""
        names = (STATUS, CONFIG, ENVIRONMENT, SUMMARY)
        return [*(self.base / name for name in names), self.logs / METRICS, self.logs / LOG]

    def _epoch_images(self) -> list[Path]:
        return [path for path in sorted(self.samples.glob("epoch_*.png")) if epoch_of(path) is not None]

    def _existing_files(self) -> list[Path]:
        """Return existing files with names that a run writes."""
        fixed = [path for path in self._fixed_files() if path.exists()]
        return [*fixed, *named_steps(self.checkpoints), *self._epoch_images()]

    def _holds_run(self) -> bool:
        """Return whether the folder is recognizable as a run's, by its status, environment or checkpoints."""
        if self.status or steps_in(self.checkpoints):
            return True
        with contextlib.suppress(OSError, ValueError):
            content = read_json(self.base / ENVIRONMENT)
            return isinstance(content, dict) and {"command", "packages"} <= content.keys()
        return False

    def _occupied_message(self, existing: list[Path]) -> str:
        state = self.status.get("state", "in an unknown state")
        what = f"a run already ({state})" if (self.base / STATUS).exists() else f"{format_paths(existing)} already"
        return printable(
            f"output.base_dir holds {what}, got {str(self.base)!r}: choose another, resume it "
            "(training.resume.enabled=true training.resume.checkpoint=auto), or set output.overwrite=true"
        )

    def _earlier_runs(self) -> set[str | None]:
        """Return the ids of the runs in the folder whose checkpoints may be replaced."""
        if self.status:
            return {self.status.get("run")}
        return {manifest.run for file in steps_in(self.checkpoints) if (manifest := manifest_or_none(file))}

    def _remove_earlier(self) -> None:
        runs = self._earlier_runs()
        for file in [self.checkpoints / BEST, *named_steps(self.checkpoints)]:
            prepare_replacement(file, *runs)
            file.unlink(missing_ok=True)
        images = [image for image in self._epoch_images() if is_epoch_image(image)]
        for file in (*images, self.logs / METRICS, self.base / SUMMARY):
            file.unlink(missing_ok=True)


def _without_references(value: Any) -> Any:
    """Return resolved settings for a settings file, with each ``${`` escaped so that it is not an interpolation."""
    if isinstance(value, dict):
        return {key: _without_references(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_without_references(entry) for entry in value]
    return without_references(value) if isinstance(value, str) else value
