"""W&B logger: check that the server is reachable, mirror the metrics, and finish within a time limit."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shlex
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console

from diffusion_lab.config.schema import LoggerSettings
from diffusion_lab.console.redaction import without_folders
from diffusion_lab.runtime.home import ensure_home
from diffusion_lab.training.mirror import Mirror, warn

REACH_SECONDS = 10.0
"""Longest wait for the server's first answer."""

INIT_SECONDS = 30.0
"""Longest wait for wandb.init; W&B's own WANDB_INIT_TIMEOUT overrides it."""

FINISH_SECONDS = 60.0
"""Longest wait for the upload at the end of a run; W&B's own WANDB_FINISH_TIMEOUT overrides it."""

FLUSH_SECONDS = 2.0
"""Longest time until W&B writes metrics to its file."""

MESSAGE_AFTER_SECONDS = 3.0
"""Wait for the upload after which a message explains it."""

STEP = "trainer/global_step"


def check_reachable(settings: LoggerSettings) -> None:
    """Check that W&B answers and knows the account if ``logger.mode=online``; nothing is written.

    Raises:
        ValueError: There is no login, the server does not answer within ``REACH_SECONDS``, or it refuses the key.
    """
    if "wandb" not in settings.backends or settings.mode != "online":
        return
    wandb = _wandb()
    from wandb.sdk.lib import wbauth

    server = str(wandb.setup().settings.base_url).rstrip("/")
    try:
        login = wbauth.authenticate_session(host=server, source="logger.mode=online", prompt=False)
    except wandb.Error as error:
        raise ValueError(
            f"logger.mode=online: the W&B login cannot be used: {error} (wandb login --relogin)"
        ) from error
    if login is None:
        raise ValueError(
            f"logger.mode=online needs a login for {server}, and there is none: run `wandb login`, set WANDB_API_KEY, "
            "or use logger.mode=offline"
        )
    key = getattr(login, "api_key", None)
    if key is not None:  # W&B itself exchanges the other kind of login for a token
        _check_server(server, key)


class WandbMirror(Mirror):
    """Sends metrics and images to W&B.

    Args:
        run: The run on W&B.
        console: Console for warnings.
        delivered_step: W&B already has the metrics of optimizer steps up to this one; they are not sent again.
    """

    def __init__(self, run: Any, console: Console, delivered_step: int = -1) -> None:
        super().__init__("W&B", console)
        self.run = run
        self.delivered_step = delivered_step
        self.last_step = -1

    @property
    def version(self) -> str:
        return str(self.run.id)

    def send_metrics(self, metrics: Mapping[str, Any], step: int) -> None:
        if step > self.delivered_step:
            self.run.log({**metrics, STEP: step})
            self.last_step = max(step, self.last_step)

    def send_image(self, name: str, image: Image.Image, step: int) -> None:
        self.send_metrics({name: [_wandb().Image(image)]}, step)

    def finish(self, failed: bool, seconds: float, interrupted: Callable[[], bool]) -> bool:
        """Finish the run on W&B, waiting for the upload within a time limit.

        Args:
            failed: Whether W&B marks the run as failed.
            seconds: Longest wait.
            interrupted: Polled several times per second: returns whether to stop waiting.

        Returns:
            Whether W&B has everything.
        """
        outcome: list[BaseException] = []

        def end() -> None:
            try:
                self.run.finish(exit_code=int(failed))
            except BaseException as error:  # reported by the waiting thread
                outcome.append(error)

        thread = threading.Thread(target=end, name="wandb-finish", daemon=True)
        thread.start()
        began = time.monotonic()
        has_printed = False
        while thread.is_alive() and (waited := time.monotonic() - began) < seconds and not interrupted():
            thread.join(0.1)
            if waited > MESSAGE_AFTER_SECONDS and not has_printed:
                has_printed = True
                text = f"training is done and saved; waiting up to {seconds:.0f} s for W&B (Ctrl-C ends the wait)"
                self.console.print(text, highlight=False, markup=False, soft_wrap=True)
        complete = not thread.is_alive() and not outcome and not self.broken
        if not complete:
            end_service()
            if not self.broken:
                reason = "interrupted by a signal" if interrupted() else f"{seconds:.0f} s were not enough"
                self._warn_incomplete(str(outcome[0]) if outcome else reason)
        return complete

    def _warn_incomplete(self, reason: str) -> None:
        warn(
            self.console,
            f"the upload to W&B is incomplete ({reason}). The rest is on the disk: "
            + shlex.join(["wandb", "sync", str(self.run.settings.sync_dir)]),
        )


def start_run(
    settings: LoggerSettings,
    folder: Path,
    run_id: str,
    group: str,
    run_name: str,
    config: Mapping[str, Any],
    resumed: bool,
) -> Any:
    """Start a run on W&B, or resume the one with this id. Command line, host, user and folders are not sent.

    Raises:
        ValueError: W&B refuses the run, or does not answer within the limit.
    """
    wandb = _wandb()
    directory = settings.dir or folder
    try:
        directory.mkdir(parents=True, exist_ok=True)
        # The mode is an argument since an environment variable would also affect later jobs of a sweep.
        run = wandb.init(
            id=run_id,
            resume="allow" if resumed and settings.mode == "online" else None,
            dir=directory,
            mode=settings.mode,
            project=settings.project,
            entity=settings.entity,
            group=group,
            job_type=os.environ.get("WANDB_JOB_TYPE") or "train",
            name=settings.name or run_name,
            config=without_folders(dict(config)),
            settings=_run_settings(wandb),
            reinit="finish_previous",
        )
    except (wandb.Error, TimeoutError, OSError) as error:
        end_service()
        first_line = next(iter(str(error).splitlines()), type(error).__name__)
        reason = getattr(error, "strerror", None) or first_line
        hint = ": see logger.project and logger.entity, or use logger.mode=offline" if settings.mode == "online" else ""
        raise ValueError(f"logger.mode={settings.mode}: W&B cannot start the run {run_id} ({reason}){hint}") from error
    run.define_metric(STEP)
    run.define_metric("*", step_metric=STEP)
    return run


def last_step_of(run: Any) -> int | None:
    """Return the last optimizer step of a resumed run that the server has metrics of, None if there is none."""
    with contextlib.suppress(Exception):  # a network request
        return int(run.summary.get(STEP))
    return None


def finish_seconds() -> float:
    """Return how long a finished run may wait for W&B."""
    return _limit("WANDB_FINISH_TIMEOUT", FINISH_SECONDS)


def end_service() -> None:
    """Kill W&B's service process, which our exit would otherwise wait for, and reset the library.

    W&B has no public API for it: ``wandb.teardown`` waits for all uploads.
    """
    wandb = _wandb()
    connection = getattr(wandb.setup(), "_connection", None)
    process = getattr(getattr(connection, "_proc", None), "_process", None)
    if process is not None:
        process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)  # W&B does not wait for a process that is gone, so it would remain a zombie

    def forget() -> None:
        with contextlib.suppress(BaseException):  # its process is gone
            wandb.teardown(exit_code=1)

    thread = threading.Thread(target=forget, name="wandb-teardown", daemon=True)
    thread.start()
    thread.join(5)


def _wandb() -> Any:
    """Import the library, which takes a second, configured neither to print nor to send reports of its own errors."""
    ensure_home()
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # at exit it would wait for an unreachable server
    import wandb

    wandb.setup(settings=wandb.Settings(silent=True))
    return wandb


def _run_settings(wandb: Any) -> Any:
    return wandb.Settings(
        silent=True,
        console="off",
        host="",
        username="",
        x_disable_meta=True,  # command line, folders, executable
        disable_git=True,
        disable_code=True,
        init_timeout=_limit("WANDB_INIT_TIMEOUT", INIT_SECONDS),
        finish_timeout=finish_seconds(),
        finish_timeout_raises=True,
        x_transaction_log_flush_interval=FLUSH_SECONDS,
    )


def _limit(variable: str, default: float) -> float:
    with contextlib.suppress(ValueError):
        return float(os.environ.get(variable, default)) or default
    return default


def _check_server(server: str, key: str) -> None:
    """Raise ValueError if the server does not answer or does not know the key."""
    request = urllib.request.Request(
        f"{server}/graphql",
        json.dumps({"query": "query Viewer { viewer { username } }"}).encode(),
        {
            "Content-Type": "application/json",
            "Authorization": f"Basic {base64.b64encode(f'api:{key}'.encode()).decode()}",
        },
    )
    try:
        with urllib.request.urlopen(request, timeout=REACH_SECONDS) as answer:
            response = json.loads(answer.read(2**20))
        is_known = response["data"]["viewer"] is not None
    except urllib.error.HTTPError as error:
        if error.code not in (401, 403):
            raise ValueError(_unreachable(server, f"it answers {error.code} {error.reason}")) from error
        is_known = False
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = getattr(error, "reason", error)
        text = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
        raise ValueError(_unreachable(server, text)) from error
    if not is_known:
        raise ValueError(
            f"logger.mode=online: {server} does not know the W&B key in use: run `wandb login --relogin`, "
            "or use logger.mode=offline"
        )


def _unreachable(server: str, reason: str) -> str:
    return (
        f"logger.mode=online: the W&B server {server} cannot be reached ({reason}): try again, "
        "or use logger.mode=offline and send the run later with `wandb sync`"
    )


def replay(mirror: WandbMirror, lines: Iterable[Mapping[str, Any]]) -> None:
    """Send lines of ``metrics.jsonl`` that a killed run had not sent."""
    for line in lines:
        mirror.log_metrics({key: value for key, value in line.items() if key not in ("step", "seconds")}, line["step"])
