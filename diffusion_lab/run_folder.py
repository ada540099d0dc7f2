"""The folder of a run: where things go, what explains them, and how the run stands."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from diffusion_lab.config.schema import OutputSettings
from diffusion_lab.folder_lock import held, refuse_if_used
from diffusion_lab.version import __version__

PACKAGES = ("torch", "torchvision", "lightning", "hydra-core", "omegaconf", "pydantic", "numpy")

RUN_LOG = "diffusion_lab.run"
"""Logger of what ``run.log`` alone hears, because the console is told in other words."""


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


@dataclass(frozen=True)
class RunFolder:
    """``output.base_dir`` and its subfolders.

    ``config.yaml`` is the resolved configuration, ``environment.json`` the versions and the git commit, and
    ``status.json`` tells whether the run is running, finished, stopped or failed, and why.
    """

    base: Path
    logs: Path
    checkpoints: Path
    samples: Path

    @classmethod
    def of(cls, output: OutputSettings) -> RunFolder:
        """The folder of the settings; nothing is created."""
        base, names = output.base_dir, output.subdirs
        return cls(base, base / names.logs, base / names.checkpoints, base / names.samples)

    def holds(self, file: Path) -> bool:
        """Whether a file lies in the folder, at any depth."""
        return self.base.resolve() in file.resolve().parents

    def check_free(self, reuse: bool) -> None:
        """Refuse a folder that holds another run, unless it may be used again, or that cannot be written.

        Raises:
            ValueError: There is a run already, or one that is going on.
            PermissionError: The folder, or the nearest one above it that exists, cannot be written.
        """
        refuse_if_used(self.base, "output.base_dir")
        status = self.base / "status.json"
        if status.is_file() and not reuse:
            raise ValueError(
                f"output.base_dir holds a run already, got {str(self.base)!r} ({_state(status)}): choose another, "
                "resume it (training.resume.enabled=true training.resume.checkpoint=auto), or set output.overwrite=true"
            )
        check_writable(self.base, "output.base_dir")

    def stamp(self) -> int | None:
        """Changes whenever a run begins or ends in the folder."""
        status = self.base / "status.json"
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
        """Make the folders and write what explains the run; what an earlier run left is removed, or kept."""
        for folder in (self.base, self.logs, self.checkpoints, self.samples):
            folder.mkdir(parents=True, exist_ok=True)
        if not keep:
            leftovers = [*self.checkpoints.glob("*.ckpt"), *self.samples.glob("epoch_*.png")]
            for file in (*leftovers, self.logs / "metrics.jsonl", self.base / "summary.json"):
                file.unlink(missing_ok=True)
        (self.base / "config.yaml").write_text(
            "# The resolved configuration of this run.\n" + yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
        )
        (self.base / "environment.json").write_text(json.dumps(environment(), indent=2) + "\n")

    def write_status(self, state: str, **more: Any) -> None:
        """Replace ``status.json`` in one move."""
        status = {"state": state, "pid": os.getpid(), "at": datetime.now(UTC).isoformat(timespec="seconds"), **more}
        partial = self.base / ".status.json.partial"
        partial.write_text(json.dumps(status, indent=2) + "\n")
        partial.replace(self.base / "status.json")

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Keep ``status.json`` and ``logs/run.log`` while the run goes on; a failure is recorded and raised again."""
        handler = logging.FileHandler(self.logs / "run.log")
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        own = logging.getLogger(RUN_LOG)
        own.propagate = False
        for logger in (logging.getLogger(), own):
            logger.addHandler(handler)
        logging.captureWarnings(True)
        self.write_status("running")
        try:
            yield
        except RunStopped as stop:
            self.write_status("stopped", why=stop.why, step=stop.step)
            own.info("the run stopped after step %s: %s", stop.step, stop.why)
            raise
        except BaseException as error:
            self.write_status("failed", why=f"{type(error).__name__}: {error}")
            logging.getLogger(__name__).exception("the run failed")
            raise
        else:
            self.write_status("finished")
        finally:
            logging.captureWarnings(False)
            for logger in (logging.getLogger(), own):
                logger.removeHandler(handler)
            handler.close()


def check_writable(folder: Path, key: str) -> None:
    """Raise PermissionError where ``folder`` cannot be made or written; nothing is created."""
    nearest = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise PermissionError(f"{key} must be a folder that can be written, got {str(folder)!r} ({nearest} cannot)")


def environment() -> dict[str, Any]:
    """Versions of Python and the packages, the platform, the command line, and the project's git commit."""
    return {
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {"diffusion_lab": __version__} | {name: _version(name) for name in PACKAGES},
        "git_commit": git_commit(),
    }


def git_commit() -> str | None:
    """The commit of the project's checkout, ``-dirty`` where files differ from it; None outside a checkout."""
    here = Path(__file__).parent
    command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _state(status: Path) -> str:
    try:
        return str(json.loads(status.read_text())["state"])
    except (OSError, ValueError, KeyError):
        return "in an unknown state"
