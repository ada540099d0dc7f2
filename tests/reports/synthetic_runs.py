"""Run folders as training writes them, made in milliseconds."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from diffusion_lab.files.run_files import CONFIG, ENVIRONMENT, LOG, METRICS, STATUS, SUMMARY
from diffusion_lab.runs.epoch_images import epoch_name, save_epoch_image
from diffusion_lab.sweeps.job_record import RECORD

BATCH = 64
STEPS_PER_EPOCH = 20
BANDS = ("low", "medium", "high", "extreme")
CLASSES = {"one": 1.25, "two": 2.5, "three": 0.75}
"""Kernel distances of classes in ``evaluation.json``."""

_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def settings(seed: int = 0, rate: float = 1e-3, optimizer: str = "adam", epochs: int = 4) -> dict[str, Any]:
    """Return the settings of a run, as far as reports use them."""
    return {
        "experiment": "digits",
        "compute": {"device": "auto", "seed": seed},
        "output": {"base_dir": "somewhere", "subdirs": {"logs": "logs", "checkpoints": "checkpoints"}},
        "model": {
            "architecture": {"type": "unet", "image_size": 8, "in_channels": 1, "model_channels": 32},
            "diffusion": {
                "type": "discrete",
                "num_timesteps": 1000,
                "beta_schedule": "cosine",
                "beta_start": 1e-4,
                "beta_end": 0.02,
                "prediction": "v",
            },
            "conditioning": {"type": "class", "num_classes": 10, "class_dropout_prob": 0.1},
        },
        "data": {"type": "digits", "loading": {"batch_size": BATCH}},
        "training": {
            "epochs": epochs,
            "accumulate_batches": 1,
            "optimizer": {"type": optimizer, "learning_rate": rate},
            "validation": {"enabled": True, "metric": "loss", "mode": None},
        },
    }


def write_run(
    folder: Path,
    tree: Mapping[str, Any] | None = None,
    *,
    state: str = "finished",
    epochs: int = 4,
    level: float = 0.2,
    pictures: int = 2,
    extra: Mapping[str, float] | None = None,
    overrides: tuple[str, ...] | None = None,
    command: tuple[str, ...] = ("train.py", "experiment=digits"),
) -> Path:
    """Write a run folder.

    Args:
        folder: The run folder.
        tree: Its settings.
        state: State in ``status.json``.
        epochs: Finished epochs.
        level: Loss that the curves approach.
        pictures: Number of sample images, after the first epochs.
        extra: Further metrics, logged at the end of every epoch.
        overrides: Overrides of the job of a sweep; it is none if None.
        command: Command in ``environment.json``.
    """
    tree = settings(epochs=epochs) if tree is None else tree
    (folder / "logs").mkdir(parents=True)
    (folder / CONFIG).write_text(yaml.dump(dict(tree), Dumper=_DUMPER, sort_keys=False, allow_unicode=True))
    (folder / ENVIRONMENT).write_text(
        json.dumps(
            {"command": list(command), "python": "3.12.1", "packages": {"torch": "2.13.0"}, "git_commit": "ab12"}
        )
    )
    status = {"state": state, "host": "elsewhere", "pid": 1, "run": "00ff"}
    (folder / STATUS).write_text(json.dumps(status | ({"why": "asked to by SIGINT"} if state == "stopped" else {})))
    lines = list(_lines(epochs, level, extra or {}))
    (folder / "logs" / METRICS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "logs" / LOG).write_text("2026-01-01 00:00:00 WARNING diffusion_lab.run: loss spike\n")
    if state == "finished":
        (folder / SUMMARY).write_text(json.dumps(_summary(folder, epochs, level)))
    for epoch in range(1, pictures + 1):
        save_epoch_image(picture(epoch), folder / "samples", epoch)
    if overrides is not None:
        record = {"overrides": overrides, "state": state, "settings": dict(tree), "metric": "val/loss"}
        (folder / RECORD).write_text(json.dumps(record))
    return folder


def picture(number: int, size: tuple[int, int] = (160, 120)) -> Image.Image:
    """Return an image that differs for each number."""
    generator = np.random.default_rng(number)
    small = generator.integers(0, 255, (size[1] // 8, size[0] // 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def _lines(epochs: int, level: float, extra: Mapping[str, float]) -> Any:
    for step in range(epochs * STEPS_PER_EPOCH):
        loss = level + math.exp(-step / 30)
        epoch, place = divmod(step, STEPS_PER_EPOCH)
        line = {"step": step, "seconds": round(0.1 * step + 2.0 * epoch, 3)}
        if step % 5 == 4:
            bands = {f"train/loss_at_{band}_noise": loss * (index + 1) / 2 for index, band in enumerate(BANDS)}
            yield line | {"train/loss": loss, **bands, "train/learning_rate": 1e-3, "epoch": epoch}
        if place == STEPS_PER_EPOCH - 1:
            after = line | {"seconds": line["seconds"] + 1}
            bands = {f"val/loss_at_{band}_noise": loss * (index + 1) / 2 for index, band in enumerate(BANDS)}
            yield after | {"val/loss": loss, **bands, **extra, "epoch": epoch}


def _summary(folder: Path, epochs: int, level: float) -> dict[str, Any]:
    return {
        "run_folder": str(folder),
        "epochs": epochs,
        "steps": epochs * STEPS_PER_EPOCH,
        "parameters": 750_000,
        "forward_flops": 32_000_000,
        "train_images": 1280,
        "metric": "val/loss",
        "mode": "min",
        "best_value": level + math.exp(-(epochs * STEPS_PER_EPOCH - 1) / 30),
        "best_epoch": epochs,
        "train_seconds": 12.5,
        "images_per_second": 640.0,
        "peak_memory_mb": 500.0,
        "data_fingerprint": "d" * 8,
        "validation_fingerprint": "e" * 8,
    }


def write_evaluation(folder: Path, checkpoint: str = "run/step_00000080.ckpt", value: float = 1.5) -> None:
    """Write ``evaluation/evaluation.json`` of ``evaluate.py`` into the folder of a run or a sweep."""
    samples = folder / "evaluation" / "step_00000080-ab" / "ddim-50"
    samples.mkdir(parents=True)
    picture(99).save(samples / "nearest.png")
    estimate = {"value": value, "low": value - 0.25, "high": value + 0.25}
    null = {"estimate": {"value": 0.5, "low": 0.25, "high": 0.75}, "n": 200, "matched": None}
    classes = {name: {"value": level, "low": level - 0.1, "high": level + 0.1} for name, level in CLASSES.items()}
    classes["one"]["null"] = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 20}
    row = {"name": "kid_digits@8", "estimate": estimate, "n": 400, "better": "lower", "null": null, "classes": classes}
    result = {
        "samples": {
            "checkpoint": checkpoint,
            "folder": str(samples),
            "sampler": "ddim",
            "steps": 50,
            "guidance_scale": 2.0,
        },
        "conditions": {"num_samples": 400, "features": "digits@8"},
        "measurement": {"rows": [row]},
    }
    (folder / "evaluation" / "evaluation.json").write_text(json.dumps({"results": [result]}))


def write_many(folder: Path, count: int = 200, pictures: int = 10) -> Path:
    """Write a folder of runs with different rates, optimizers and seeds."""
    for index in range(count):
        rate = 10 ** (-4 + 2 * (index % 40) / 39)
        tree = settings(seed=index, rate=rate, optimizer=("adam", "adamw")[index % 2])
        level = 0.2 + abs(math.log10(rate) + 3) / 10 + index / 10_000
        kid = {"val/kid_digits": level}
        write_run(folder / f"run_{index:03d}", tree, level=level, pictures=0, extra=kid)
        samples = folder / f"run_{index:03d}" / "samples"
        samples.mkdir()
        for epoch in range(1, pictures + 1):
            pixels = np.full((12, 16, 3), (index, epoch, 0), dtype=np.uint8)
            Image.fromarray(pixels).save(samples / epoch_name(epoch))
    return folder
