"""``tune``: measurements that suggest a batch size and a learning rate. Nothing is trained, no run is created."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from rich.console import Console

from diffusion_lab.config.schema import TrainConfig
from diffusion_lab.preview.batch_size import Trial, suggested_size, try_sizes, with_batch_size
from diffusion_lab.preview.files import check_replaceable, save_picture
from diffusion_lab.preview.learning_rate import RangeTest, draw_range_test, measure_losses
from diffusion_lab.preview.show import prepare, rehearsing
from diffusion_lab.runs.startup_lines import aligned
from diffusion_lab.training.disk_space import format_bytes

RATE, SIZE = "training.optimizer.learning_rate", "data.loading.batch_size"
PLOT = "learning_rate.png"


def tune(config: TrainConfig, start: Callable[[Mapping[str, object]], str], console: Console | None = None) -> str:
    """Measure what ``config.tune`` asks for; with both, the learning rate is that for the suggested batch size.

    Args:
        config: The checked settings.
        start: Returns the command that trains with some values set, by their dotted keys.
        console: Console for messages; standard error if None.

    Returns:
        The suggestions as text.

    Raises:
        ValueError, FileNotFoundError, PermissionError: The run would be refused; naming the key, value and rule.
        MemoryError: A training step does not fit into memory.
    """
    console = console or Console(stderr=True)
    plot = config.output.base_dir / PLOT
    values: dict[str, object] = {}
    lines = [f"{config.experiment}: nothing is trained"]
    with rehearsing(config):
        if config.tune.learning_rate:
            check_replaceable(plot)
        if config.tune.batch_size:
            if (run := prepare(config, console)) is None:
                return "nothing is left to train"
            configured = run.data.batch_size
            trials = try_sizes(run, console)
            values[SIZE] = suggested_size(trials, configured)
            lines += describe_trials(trials, configured, suggested_size(trials, configured))
            config = with_batch_size(config, suggested_size(trials, configured))
        if config.tune.learning_rate:
            if (run := prepare(config, console)) is None:
                return "nothing is left to train"
            test = measure_losses(run)
            current = config.training.optimizer.learning_rate
            save_picture(draw_range_test(test, config.experiment, current), plot)
            if test.suggestion is not None:
                values[RATE] = test.suggestion
            rows = {**describe_test(test, current), "look at": str(plot)}
            lines.append(aligned(rows))
    lines.append(aligned({"train with": start(values)}))
    return "\n".join(lines)


def describe_trials(trials: Sequence[Trial], configured: int, suggestion: int) -> list[str]:
    """Return a table of batch sizes, and the suggestion."""
    rows = [f"{'batch size':>10}  {'images/s':>10}  {'peak memory':>12}"]
    for trial in trials:
        marks = {configured: "configured", suggestion: "suggested"}
        both = "configured, and suggested" if configured == suggestion == trial.size else marks.get(trial.size, "")
        memory = format_bytes(trial.peak_memory)
        rows.append(f"{trial.size:>10,}  {trial.images_per_second:>10,.0f}  {memory:>12}  {both}".rstrip())
    if suggestion != configured:
        rows.append("Another batch size often needs another learning rate: tune.learning_rate=true.")
    return rows


def describe_test(test: RangeTest, current: float) -> dict[str, str]:
    """Describe a range test by the names of the lines."""
    rows = {"rates": f"{test.rates[0]:.1g} to {test.rates[-1]:.1g} in {len(test.rates)} steps"}
    if test.suggestion is None:
        return {**rows, "suggestion": "none: the loss does not fall at any rate"}
    return {**rows, "suggestion": f"{test.suggestion:g}, a third of the rate with the lowest loss; now {current:g}"}
