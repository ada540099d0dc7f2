"""Tables of the V1 format: every key with its V2 counterpart, used by ``migration.py``."""

from __future__ import annotations

from collections.abc import Iterator

from diffusion_lab.config.optimizer_section import OptimizerSettings
from diffusion_lab.config.scheduler_section import SchedulerSettings

NOT_IN_V1 = ("warmup_steps",)
"""Options of learning-rate schedules that only V2 has."""

KEPT_NAMES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("", "", ("experiment", "mode")),
    ("", "compute", ("device", "seed")),
    (
        "model",
        "model.architecture",
        ("image_size", "in_channels", "model_channels", "channel_multipliers", "use_attention"),
    ),
    ("model", "model.diffusion", ("num_timesteps", "beta_schedule", "beta_start", "beta_end")),
    ("model", "model.conditioning", ("num_classes", "class_dropout_prob")),
    ("data", "data.loading", ("batch_size", "num_workers", "pin_memory", "shuffle_train", "drop_last")),
    ("data", "data.augmentation", ("horizontal_flip", "rotation_degrees")),
    ("training", "training", ("epochs",)),
    ("training", "training.optimizer", ("learning_rate", "gradient_clip_norm")),
    ("training.optimizer_kwargs", "training.optimizer", ("weight_decay", "betas", *OptimizerSettings.all_options())),
    (
        "training.scheduler_kwargs",
        "training.scheduler",
        tuple(name for name in SchedulerSettings.all_options() if name not in NOT_IN_V1),
    ),
    ("training", "training.checkpointing", ("save_frequency", "save_best_only")),
    ("training.validation", "training.validation", ("enabled", "frequency", "metric")),
    ("validation", "training.validation", ("enabled", "frequency", "metric")),
    ("training.visualization", "training.visualization", ("guidance_scale",)),
    ("training", "training.performance", ("use_amp",)),
    ("generation", "generation", ("checkpoint",)),
    ("generation", "generation.sampling", ("num_samples", "guidance_scale", "use_ema")),
    ("generation", "generation.output", ("save_grid", "grid_nrow")),
)
"""Keys of which only the section changed: V1 section, V2 section, names."""

RENAMED: tuple[tuple[str, str], ...] = (
    ("data.train_path", "data.paths.train"),
    ("data.val_path", "data.paths.val"),
    ("data.color_jitter", "data.augmentation.color_jitter.enabled"),
    ("data.color_jitter_strength", "data.augmentation.color_jitter.strength"),
    ("training.optimizer", "training.optimizer.type"),
    ("training.optimizer_kwargs.lr", "training.optimizer.learning_rate"),
    ("training.scheduler", "training.scheduler.type"),
    ("training.use_ema", "training.ema.enabled"),
    ("training.ema_decay", "training.ema.decay"),
    # Some older files have the section of V2:
    *((f"training.ema.{name}", f"training.ema.{name}") for name in ("enabled", "decay")),
    ("training.visualization.sample_images", "training.visualization.enabled"),
    ("generation.sample_images", "training.visualization.enabled"),
    ("training.visualization.sample_interval", "training.visualization.interval"),
    ("generation.sample_interval", "training.visualization.interval"),
    # Times the number of classes:
    ("training.visualization.samples_per_class", "training.visualization.num_samples"),
    ("generation.samples_per_class", "training.visualization.num_samples"),
)
"""Keys with another name in V2: full V1 key, full V2 key."""

FOLDERS = {
    "training.checkpoint_dir": "checkpoints",
    "output.log_dir": "logs",
    "generation.output_dir": "generated",
}
"""Separate folders in V1, each with its name in ``output.subdirs``."""

DERIVED = ("data.image_size", "data.return_labels")
"""Keys that V2 derives from the model."""

SAMPLE_KEYS_UNDER_GENERATION = (
    "generation.sample_images",
    "generation.sample_interval",
    "generation.samples_per_class",
)
"""Keys of sample images in older V1 files, which have one guidance_scale for these and for generation."""


def _moves() -> Iterator[tuple[str, str]]:
    for old, new, names in KEPT_NAMES:
        for name in names:
            yield f"{old}.{name}".lstrip("."), f"{new}.{name}".lstrip(".")
    yield from RENAMED


MOVES: tuple[tuple[str, str], ...] = tuple(_moves())
"""Each V1 key whose value V2 keeps, with the V2 key. Two V1 keys may be the same setting."""

V1_KEYS: tuple[str, ...] = (*(old for old, _ in MOVES), *FOLDERS, *DERIVED)
"""Every dotted key of V1."""

V1_SECTIONS: frozenset[str] = frozenset(
    ".".join(parts[:depth]) for parts in (key.split(".") for key in V1_KEYS) for depth in range(1, len(parts))
)
"""Sections of V1 by their dotted keys."""
