"""Facts about a run in words: progress, size, time, and the commands to go on with it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from diffusion_lab.console.command_line import COMMAND, COMMANDS, SCRIPTS, command, setting
from diffusion_lab.files.run_files import CONFIG
from diffusion_lab.metric_names import THROUGHPUT, validation_direction
from diffusion_lab.reports.curves import best_of, throughput
from diffusion_lab.reports.records import RunRecord, count, number


def add_throughput(run: RunRecord) -> None:
    """Add the curve of images per second, unless the run logs it itself."""
    batch = images_per_step(run)
    if THROUGHPUT not in run.curves and "train/loss" in run.curves and batch is not None:
        curve = throughput(run.curves["train/loss"], batch, run.epoch_ends.values())
        if len(curve):
            run.curves[THROUGHPUT] = curve


def images_per_step(run: RunRecord) -> int | None:
    """Return the images of one optimizer step; None if the settings do not say."""
    batch = count(run.settings.get("data.loading.batch_size"))
    accumulated = count(run.settings.get("training.accumulate_batches", 1))
    return batch * accumulated if batch and accumulated else None


def metric_of(run: RunRecord) -> tuple[str, str]:
    """Return the metric that selects the best checkpoint, as it is logged, and ``min`` or ``max``."""
    training = run.tree.get("training")
    validation = training.get("validation") if isinstance(training, dict) else None
    name, mode = run.summary.get("metric"), run.summary.get("mode")
    if not isinstance(validation, dict):
        return (name if isinstance(name, str) else "val/loss"), "max" if mode == "max" else "min"
    if not isinstance(name, str):
        metric = str(validation.get("metric", "loss"))
        name = metric if metric in run.curves else f"val/{metric.removeprefix('val/')}"
    return name, mode if mode in ("min", "max") else validation_direction(validation)


def best_value(run: RunRecord) -> tuple[float, int | None] | None:
    """Return the best value of the run's metric, and its epoch; None if there is none yet."""
    name, mode = metric_of(run)
    value = number(run.summary.get("best_value"))
    if value is not None:
        return value, count(run.summary.get("best_epoch"))
    curve = run.curves.get(name)
    best = best_of(curve.values, mode) if curve else None
    if curve is None or best is None:
        return None
    step = curve.steps[curve.values.index(best)]
    return best, next((epoch + 1 for epoch, end in run.epoch_ends.items() if step <= end), None)


def epochs_of(run: RunRecord) -> tuple[int, int | None]:
    """Return the epochs that were finished, and how many there should be; None if the settings do not say."""
    total = count(run.facts.get("epochs_planned")) or count(run.settings.get("training.epochs"))
    done = count(run.summary.get("epochs"))
    if done is not None:
        return done, total
    if not run.epoch_ends:
        return 0, total
    last = max(run.epoch_ends)
    return last + _is_complete(run, last), total


def _is_complete(run: RunRecord, last: int) -> bool:
    """Return whether the last epoch was logged to its end, as far as the epochs before it show."""
    if run.state == "finished":
        return True
    return any(
        (run.epoch_ends[last] + 1) * (epoch + 1) == (end + 1) * (last + 1)
        for epoch, end in run.epoch_ends.items()
        if epoch < last
    )


def steps_per_epoch(run: RunRecord) -> float | None:
    """Return the steps of an epoch, by which steps are converted to epochs; None if no step was logged."""
    if not run.epoch_ends:
        return None
    last = max(run.epoch_ends)
    earlier = [epoch for epoch in run.epoch_ends if epoch < last]
    epoch = last if _is_complete(run, last) or not earlier else max(earlier)
    return (run.epoch_ends[epoch] + 1) / (epoch + 1)


def seconds_of(run: RunRecord) -> float | None:
    """Return the seconds of training so far."""
    seconds = number(run.summary.get("train_seconds"))
    if seconds is not None:
        return seconds
    return max((curve.seconds[-1] for curve in run.curves.values() if len(curve)), default=None)


def logged_steps(run: RunRecord) -> int | None:
    """Return the optimizer steps up to the last logged one; None if nothing is logged."""
    return max((curve.steps[-1] + 1 for curve in run.curves.values() if len(curve)), default=None)


def remaining_seconds(run: RunRecord) -> float | None:
    """Return an estimate of the time to the end of a run in progress."""
    done, total = epochs_of(run)
    seconds = seconds_of(run)
    if run.state != "running" or not done or not total or not seconds:
        return None
    points = [point for curve in run.curves.values() for point in zip(curve.steps, curve.seconds, strict=True)]
    (first, start), (last, end) = min(points, default=(0, 0.0)), max(points, default=(0, 0.0))
    steps = steps_per_epoch(run)
    if steps is None or last == first or end <= start:
        return seconds / done * max(total - done, 0)
    return (end - start) / (last - first) * max(total * steps - last - 1, 0)


def facts_of(run: RunRecord) -> dict[str, Any]:
    """Return numbers for the table and the tiles; what is unknown is absent."""
    done, total = epochs_of(run)
    facts: dict[str, Any] = {"epochs": done, "total_epochs": total, "seconds": seconds_of(run)}
    facts["steps"] = run.summary.get("steps") or logged_steps(run)
    facts["images_per_second"] = run.summary.get("images_per_second") or _typical_speed(run)
    known = run.facts
    for name in ("parameters", "forward_flops", "peak_memory_mb", "train_images", "validation_images"):
        facts[name] = known.get(name)
    facts["remaining"] = remaining_seconds(run)
    evaluation = run.summary.get("evaluation")
    facts["evaluation_seconds"] = evaluation.get("seconds") if isinstance(evaluation, dict) else None
    return {name: value for name, value in facts.items() if number(value) is not None}


def device_of(run: RunRecord) -> tuple[str, str] | None:
    """Return the name of the device, and threads and precision of training; None if an older run did not record them.

    ``("cpu", "2 threads, float32")``, ``("NVIDIA H200", "cuda, bfloat16")``.
    """
    device, name, precision = (run.facts.get(key) for key in ("device", "device_name", "precision"))
    if not isinstance(device, str):
        return None
    threads = count(run.facts.get("threads")) if device == "cpu" else None
    how = f"{threads} {'thread' if threads == 1 else 'threads'}" if threads else None
    details = [device if name else how, precision]
    return str(name or device), ", ".join(str(detail) for detail in details if detail)


def _typical_speed(run: RunRecord) -> float | None:
    curve = run.curves.get(THROUGHPUT)
    known = sorted(value for value in curve.values if value is not None) if curve else []
    return known[len(known) // 2] if known else None


def headline(run: RunRecord) -> str:
    """Describe what was trained, in a few words: ``digits, 8×8 pixels, 10 classes, unet, cosine, predicts v``."""
    get = run.settings.get
    parts: list[Any] = [get("data.type")]
    size = get("model.architecture.image_size")
    parts.append(f"{size}×{size} pixels" if isinstance(size, int) else None)
    classes = get("model.conditioning.num_classes") if get("model.conditioning.type") else None
    parts.append(f"{classes} classes" if isinstance(classes, int) else None)
    parts.append(get("model.architecture.type"))
    process = get("model.diffusion.type")
    parts.append(get("model.diffusion.beta_schedule") if process == "discrete" else process)
    prediction = get("model.diffusion.prediction")
    parts.append(f"predicts {prediction}" if prediction else None)
    return ", ".join(str(part) for part in parts if part)


def commands_of(run: RunRecord) -> Iterator[tuple[str, str]]:
    """Yield what can be done next, and the command for it."""
    if run.commands is not None:
        yield from run.commands
        return
    folder = run.folder
    started = run.environment.get("command")
    if isinstance(started, list) and started:
        yield "Started with", started_with(list(map(str, started)))
    if run.has_checkpoint and (folder / CONFIG).is_file():
        done, total = epochs_of(run)
        more = [setting("training.epochs", done * 2 or 1)] if total is not None and done >= total else []
        yield (
            "Train for longer" if more else "Resume",
            command(
                "run",
                folder / CONFIG,
                setting("output.base_dir", folder),
                "training.resume.enabled=true",
                "training.resume.checkpoint=auto",
                *more,
            ),
        )
    if run.has_checkpoint:
        checkpoint = setting("ckpt", folder)
        yield "Sample", command("sample", checkpoint)
        yield "Evaluate", command("evaluate", checkpoint)
        yield "Sample for this report", command("report", folder, "--sample")


def started_with(words: Sequence[str]) -> str:
    """Return a recorded command line, started in the way in which this program was.

    >>> started_with(["/home/me/bin/other", "a b"])
    "/home/me/bin/other 'a b'"
    """
    program, *arguments = words
    name = next((name for name, script in SCRIPTS.items() if Path(script).name == Path(program).name), None)
    if name is None and Path(program).name in (COMMAND, "__main__.py") and arguments:
        is_name = arguments[0] in COMMANDS
        name, arguments = (arguments[0], arguments[1:]) if is_name else ("run", arguments)
    return shlex.join(words) if name is None else command(name, *arguments)


def environment_of(run: RunRecord) -> list[tuple[str, str]]:
    """Return what is known of the machine and the software."""
    packages = run.environment.get("packages")
    device = device_of(run)
    rows = [
        ("Device", device and ", ".join(device)),
        ("Python", run.environment.get("python")),
        ("Platform", run.environment.get("platform")),
        ("Git commit", run.environment.get("git_commit")),
        ("Host", run.status.get("host")),
        ("Run id", run.status.get("run")),
        *(packages.items() if isinstance(packages, Mapping) else ()),
        ("Data fingerprint", run.facts.get("data_fingerprint")),
        ("Settings hash", run.facts.get("config_hash")),
    ]
    return [(str(name), str(value)) for name, value in rows if value]


def now() -> str:
    """Return the current time in UTC, in ISO format with seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")
