"""Launcher of the real programs, each in a separate process that can be killed, without seconds of imports for each.

Reads a line of JSON for each request and answers with one. It has imported what the programs need, and forks.
"""

from __future__ import annotations

import gc
import json
import os
import runpy
import signal
import sys
import time
from fnmatch import fnmatch
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
IMPORTED = (
    "diffusion_lab.training.fit",  # first: it repairs torchvision, which others import
    "diffusion_lab.commands.train",
    "diffusion_lab.commands.sample",
    "diffusion_lab.evaluation.command",
    "diffusion_lab.evaluation.digits",
    "diffusion_lab.generation.generate",
    "diffusion_lab.networks.unet",
    "hydra.main",
    "PIL.PngImagePlugin",
    "rich.live",
    "sklearn.datasets",
)
"""What most programs import."""

PAUSE_AT = "TEST_PAUSE_AT"
"""Environment variable ``PATTERN NUMBER``: see ``Program.paused_at``."""


def main() -> None:
    """Serve until standard input ends."""
    sys.path.insert(0, str(ROOT))
    for module in IMPORTED:
        import_module(module)
    # Garbage collection, of which Lightning starts some, would else go through all these objects in each program, and
    # copy the memory that it shares with the launcher: a third of the time of a small run.
    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        request = json.loads(line)
        answer = {"start": start, "wait": wait}[request.pop("do")](**request)
        print(json.dumps(answer), flush=True)


def start(program: list[str], cwd: str, out: str, err: str, env: dict[str, str]) -> int:
    """Fork; the child becomes ``python PROGRAM``, leader of its own process group. Returns its id."""
    pid = os.fork()
    if pid:
        return pid
    status = 70
    try:
        os.setsid()
        _point(0, os.devnull, os.O_RDONLY)
        _point(1, out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        _point(2, err, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.chdir(cwd)
        os.environ.update(env)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if place := os.environ.pop(PAUSE_AT, ""):
            pause_at(*place.split())
        status = _run(program)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _run(program: list[str]) -> int:
    """Run a command line as the interpreter does, including the handling of exceptions."""
    try:
        if program[0] == "-m":
            sys.argv = program[1:]
            runpy.run_module(program[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = [str(ROOT / program[0]), *program[1:]]
            runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as error:
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
            return 1
        return int(error.code or 0)
    except KeyboardInterrupt:
        sys.excepthook(*sys.exc_info())
        return 130
    except BaseException:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        return 1
    return 0


def pause_at(pattern: str, number: str) -> None:
    """Stop this process, as SIGSTOP does, when it is about to write a file of a matching name for the n-th time."""
    process, left = os.getpid(), int(number)

    def hook(event: str, given: tuple[Any, ...]) -> None:
        nonlocal left
        if event == "open" and isinstance(given[0], str) and given[1] in ("a", "ab", "w", "wb"):
            name = given[0]
        elif event == "os.rename" and isinstance(given[1], str | Path):
            name = str(given[1])
        else:
            return
        if os.getpid() == process and fnmatch(Path(name).name, pattern):
            left -= 1
            if left == 0:
                os.kill(process, signal.SIGSTOP)

    sys.addaudithook(hook)


def _point(descriptor: int, path: str, flags: int) -> None:
    opened = os.open(path, flags, 0o644)
    os.dup2(opened, descriptor)
    os.close(opened)


def wait(pid: int, seconds: float) -> Any:
    """The exit code as ``subprocess`` gives it (−9 for a kill), or None when it still runs."""
    ends = time.monotonic() + seconds
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= ends:
            return None
        time.sleep(0.01)


if __name__ == "__main__":
    main()
