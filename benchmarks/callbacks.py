"""What each logger and callback costs: microseconds of a step of the digits' training, and their share of it.

    python -m benchmarks.callbacks [--json] [--epochs 10]

A whole run is made with the settings of `train.py` and all loggers. Each method by which the trainer calls a callback
or a logger is timed in it, without the time of those that it calls itself; the sums are divided by the steps of the
run. So nothing hangs on the difference of two runs. What a callback does at the end of epochs alone (checkpoints,
pictures) is told beside it, and not held against the step; lines for the loggers, which do come between steps, are.
W&B writes in a process of its own, which is not counted.
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
from benchmarks.harness import Row, command, say
from benchmarks.loop import composed
from diffusion_lab.config.schema import TrainConfig
from diffusion_lab.training import create, fit
from diffusion_lab.training.summary import TrainingSummary

if TYPE_CHECKING:  # at run time torchvision, which it imports, must find its operators first
    from lightning.pytorch import Callback
    from lightning.pytorch.loggers import Logger

EPOCHS = 10

IDLE: Any = peer("lightning.pytorch").Callback
"""A callback that does nothing."""
HOOKS = [name for name in vars(IDLE) if name.startswith("on_") or name in ("setup", "teardown")]
IN_A_STEP = frozenset(name for name in HOOKS if "_batch_" in name or "before" in name or "backward" in name)
TOLD = ("log_metrics", "save")
"""By these a logger hears of a line of metrics."""
WORDS = {
    "JsonlLogger": "metrics.jsonl",
    "TensorBoardMirror": "TensorBoard",
    "WandbMirror": "W&B offline",
    "EMACallback": "EMACallback",
    "TrainingMonitor": "TrainingMonitor",
    "TrainingProgress": "TrainingProgress (bar)",
}
"""What a reader knows some of them by."""


class Stopwatch:
    """Sums up the time that objects spend in their methods.

    ``seconds`` has it by object and method; a timed method that another one calls is counted once, as its own.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.seconds: defaultdict[tuple[object, str], float] = defaultdict(float)
        self._clock = clock
        self._inside = 0.0

    def watch(self, thing: object, method: str) -> None:
        """Time this method of this object from now on."""
        does = getattr(thing, method)

        def timed(*args: Any, **options: Any) -> Any:
            outer, self._inside = self._inside, 0.0
            began = self._clock()
            try:
                return does(*args, **options)
            finally:
                taken = self._clock() - began
                self.seconds[thing, method] += taken - self._inside
                self._inside = outer + taken

        setattr(thing, method, timed)

    def of(self, thing: object, methods: Sequence[str] | frozenset[str]) -> float:
        """Seconds of an object in these methods."""
        return sum(seconds for (owner, method), seconds in self.seconds.items() if owner is thing and method in methods)


def timed_run(config: TrainConfig) -> tuple[Stopwatch, list[Callback], list[Logger], TrainingSummary]:
    """A run whose callbacks and loggers are timed."""
    stopwatch, found = Stopwatch(), []

    def watched(config: TrainConfig, device: Any, callbacks: list[Callback], loggers: list[Logger], folder: Any) -> Any:
        for callback in callbacks:
            for name in HOOKS:
                if getattr(type(callback), name) is not getattr(IDLE, name):
                    stopwatch.watch(callback, name)
        for logger in loggers:
            for name in TOLD:
                stopwatch.watch(logger, name)
        found.append((callbacks, loggers))
        return create.create_trainer(config, device, callbacks, loggers, folder)

    with mock.patch.object(fit, "create_trainer", watched):
        summary = fit.train(config, Console(file=io.StringIO(), force_terminal=True))
    assert summary is not None
    return stopwatch, *found[0], summary


def rows(
    stopwatch: Stopwatch, callbacks: Sequence[Callback], loggers: Sequence[Logger], steps: int, step: float
) -> list[Row]:
    """A row for each, and one for all of them together.

    Args:
        stopwatch: Has timed them.
        callbacks: Of the run.
        loggers: Of the run.
        steps: Of the run.
        step: Seconds of one, with all that is done in it.
    """

    def row(what: str, seconds: float, note: str = "") -> Row:
        each = seconds / steps
        note = f"peer: the whole step{note}"
        return Row("8", what, each * 1e6, step * 1e6, "µs a step", each / step, note=note)

    found, together = [], 0.0
    for logger in loggers:
        together += stopwatch.of(logger, TOLD)
        found.append(row(f"logger {_word(logger)}", stopwatch.of(logger, TOLD)))
    for callback in callbacks:
        together += stopwatch.of(callback, IN_A_STEP)
        rest = stopwatch.of(callback, frozenset(HOOKS) - IN_A_STEP) / steps * 1e6
        note = f"; at epochs {rest:,.0f} µs a step more" if rest >= 0.5 else ""
        found.append(row(f"callback {_word(callback)}", stopwatch.of(callback, IN_A_STEP), note=note))
    return [*found, row("all loggers and callbacks", together, "; the norm of the gradients is for clipping, too")]


def _word(thing: object) -> str:
    name = type(thing).__name__
    return WORDS.get(name, name)


def measure(epochs: str = str(EPOCHS), overrides: Sequence[str] = ()) -> list[Row]:
    """A row for each of the digits' default run."""
    say("loggers and callbacks: a run of the digits")
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        config = composed(["logger=all", f"training.epochs={epochs}", *overrides], Path(folder) / "run")
        stopwatch, callbacks, loggers, summary = timed_run(config)
    step = config.data.loading.batch_size / summary.images_per_second
    return rows(stopwatch, callbacks, loggers, summary.steps, step)


if __name__ == "__main__":
    command("callbacks", measure, epochs=str(EPOCHS))
