"""Cost of each logger and callback: microseconds per step of a training on the digits, and their share of it.

    python -m benchmarks.callbacks [--json] [--epochs 10]

A complete run uses the settings of `train.py` and all loggers. Each method of a callback or logger that the trainer
calls is timed, without the time of timed methods that it calls; the sums are divided by the number of steps. So the
result does not depend on the difference of two runs. Work of a callback at the end of epochs (checkpoints, sample
images) is reported separately and not counted for the step; lines for the loggers, which are between steps, are.
W&B writes in a separate process, which is not counted.
"""

from __future__ import annotations

import io
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

from rich.console import Console

from benchmarks.equal_work import peer
from benchmarks.harness import Row, command, print_progress
from benchmarks.loop import composed
from diffusion_lab.config.schema import TrainConfig
from diffusion_lab.training import create, fit
from diffusion_lab.training.summary import TrainingSummary

if TYPE_CHECKING:  # at run time torchvision, which it imports, must load its operators first
    from lightning.pytorch import Callback
    from lightning.pytorch.loggers import Logger

EPOCHS = 10

IDLE: Any = peer("lightning.pytorch").Callback
"""A callback that does nothing."""
HOOKS = [name for name in vars(IDLE) if name.startswith("on_") or name in ("setup", "teardown")]
IN_A_STEP = frozenset(name for name in HOOKS if "_batch_" in name or "before" in name or "backward" in name)
LOGGER_METHODS = ("log_metrics", "save")
"""Methods that are called for each line of metrics."""
SHOWN_NAMES = {
    "JsonlLogger": "metrics.jsonl",
    "TensorBoardMirror": "TensorBoard",
    "WandbMirror": "W&B offline",
    "EMACallback": "EMACallback",
    "TrainingMonitor": "TrainingMonitor",
    "TrainingProgress": "TrainingProgress (bar)",
}
"""Names in the table, if not that of the class."""


class Stopwatch:
    """Sums the time that objects spend in their methods.

    ``seconds`` has the sums by object and method; a timed method that another one calls is counted only once.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.seconds: defaultdict[tuple[object, str], float] = defaultdict(float)
        self._clock = clock
        self._inside = 0.0

    def watch(self, thing: object, method: str) -> None:
        """Time this method of this object from now on."""
        function = getattr(thing, method)

        def timed(*args: Any, **options: Any) -> Any:
            outer, self._inside = self._inside, 0.0
            began = self._clock()
            try:
                return function(*args, **options)
            finally:
                taken = self._clock() - began
                self.seconds[thing, method] += taken - self._inside
                self._inside = outer + taken

        setattr(thing, method, timed)

    def seconds_in(self, thing: object, methods: Sequence[str] | frozenset[str]) -> float:
        """Return the seconds that an object spent in these methods."""
        return sum(seconds for (owner, method), seconds in self.seconds.items() if owner is thing and method in methods)


def timed_run(config: TrainConfig) -> tuple[Stopwatch, list[Callback], list[Logger], TrainingSummary]:
    """Train with timed callbacks and loggers."""
    stopwatch, created = Stopwatch(), []

    def watched(
        config: TrainConfig, device: Any, callbacks: list[Callback], loggers: list[Logger], *others: Any
    ) -> Any:
        for callback in callbacks:
            for name in HOOKS:
                if getattr(type(callback), name) is not getattr(IDLE, name):
                    stopwatch.watch(callback, name)
        for logger in loggers:
            for name in LOGGER_METHODS:
                stopwatch.watch(logger, name)
        created.append((callbacks, loggers))
        return create.create_trainer(config, device, callbacks, loggers, *others)

    with mock.patch.object(fit, "create_trainer", watched):
        summary = fit.train(config, Console(file=io.StringIO(), force_terminal=True))
    assert summary is not None
    return stopwatch, *created[0], summary


def rows(
    stopwatch: Stopwatch, callbacks: Sequence[Callback], loggers: Sequence[Logger], steps: int, step: float
) -> list[Row]:
    """Return a row for each, and one for their sum.

    Args:
        stopwatch: The stopwatch of the run.
        callbacks: Callbacks of the run.
        loggers: Loggers of the run.
        steps: Number of steps of the run.
        step: Seconds of a step, with everything that is done in it.
    """

    def row(what: str, seconds: float, note: str = "") -> Row:
        each = seconds / steps
        note = f"peer: the complete step{note}"
        return Row("8", what, each * 1e6, step * 1e6, "µs/step", each / step, note=note)

    table, total = [], 0.0
    for logger in loggers:
        total += stopwatch.seconds_in(logger, LOGGER_METHODS)
        table.append(row(f"logger {_shown_name(logger)}", stopwatch.seconds_in(logger, LOGGER_METHODS)))
    for callback in callbacks:
        total += stopwatch.seconds_in(callback, IN_A_STEP)
        rest = stopwatch.seconds_in(callback, frozenset(HOOKS) - IN_A_STEP) / steps * 1e6
        note = f"; at epochs {rest:,.0f} µs/step more" if rest >= 0.5 else ""
        table.append(row(f"callback {_shown_name(callback)}", stopwatch.seconds_in(callback, IN_A_STEP), note=note))
    return [*table, row("all loggers and callbacks", total, "; the gradient norm is also used for clipping")]


def _shown_name(thing: object) -> str:
    name = type(thing).__name__
    return SHOWN_NAMES.get(name, name)


def measure(epochs: str = str(EPOCHS), overrides: Sequence[str] = ()) -> list[Row]:
    """Return a row for each logger and callback of the default run on the digits."""
    print_progress("loggers and callbacks: a run of the digits")
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        config = composed(["logger=all", f"training.epochs={epochs}", *overrides], Path(folder) / "run")
        stopwatch, callbacks, loggers, summary = timed_run(config)
    step = config.data.loading.batch_size / summary.images_per_second
    return rows(stopwatch, callbacks, loggers, summary.steps, step)


if __name__ == "__main__":
    command("callbacks", measure, epochs=str(EPOCHS))
