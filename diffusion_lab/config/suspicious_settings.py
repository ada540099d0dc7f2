"""Warnings about settings that are valid but probably not intended, as far as the settings alone show.

Warnings that need the images are in ``training/suspicious_settings.py``, those that need a checkpoint in
``generate.py``.
"""

from __future__ import annotations

from collections.abc import Iterator

from diffusion_lab.faults.sampling_warnings import dropout_warnings, guidance_warnings, label_share_warnings
from diffusion_lab.metric_names import is_evaluated, validation_direction
from diffusion_lab.typed_settings.settings_reader import SettingsReader

USUAL_CLIP_NORMS = (0.01, 100.0)


def suspicious_settings(tree: SettingsReader) -> Iterator[str]:
    """Yield the warnings about a valid tree; none with ``mode: generate``, where they depend on the checkpoint."""
    if tree["mode"] != "train":
        return
    clip = tree["training.optimizer.gradient_clip_norm"]
    low, high = USUAL_CLIP_NORMS
    if clip is not None and not low <= clip <= high:
        effect = "nearly stops learning" if clip < low else "hardly ever clips"
        usual = f"usual values lie between {low} and {high:g}"
        yield f"training.optimizer.gradient_clip_norm = {clip:g} {effect}; {usual}"
    yield from _cosine_warnings(tree)
    if tree["training.optimizer.maximize"]:
        yield "training.optimizer.maximize = true maximizes the loss, so that the model unlearns the images"
    mode, better = tree["training.scheduler.mode"], validation_direction(tree.section("training.validation"))
    if tree["training.scheduler.type"] == "plateau" and mode not in (None, better):
        yield (
            f"training.scheduler.mode = {mode} differs from training.validation.mode = {better}: the learning rate "
            "drops when training.validation.metric stops moving in one direction, and the best checkpoint is the one "
            "furthest in the other"
        )
    if tree["training.visualization.enabled"]:
        yield from _visualization_warnings(tree)
    if tree["evaluation.enabled"]:
        yield from _evaluation_warnings(tree)


def _evaluation_warnings(tree: SettingsReader) -> Iterator[str]:
    key, every, epochs = "evaluation.guidance_scale", tree["evaluation.every"], tree["training.epochs"]
    yield from _guidance_warnings(key, tree)
    metric = tree["training.validation.metric"]
    if is_evaluated(metric) and every != "auto" and every >= epochs > 1:
        yield (
            f"evaluation.every = {every} computes {metric} only once, after the last of {epochs} epochs, which is then "
            "the best checkpoint: a smaller number gives training.validation.metric a choice"
        )


def _cosine_warnings(tree: SettingsReader) -> Iterator[str]:
    if tree["training.scheduler.type"] != "cosine" or tree["training.scheduler.last_epoch"] in (None, -1):
        return
    epochs, done = tree["training.epochs"], tree["training.scheduler.last_epoch"]
    down = epochs if tree["training.scheduler.T_max"] == "auto" else tree["training.scheduler.T_max"]
    if done + epochs > down:
        yield (
            f"training.scheduler.last_epoch = {done} ends the run in epoch {done + epochs} of a cosine that reaches "
            f"its minimum in epoch {down} and rises again; training.scheduler.T_max={done + 1 + epochs} ends with the "
            "run"
        )


def _visualization_warnings(tree: SettingsReader) -> Iterator[str]:
    section = "training.visualization"
    yield from _guidance_warnings(f"{section}.guidance_scale", tree)
    classes = tree["model.conditioning.num_classes"]
    if (
        tree["model.conditioning.type"] and classes != "auto"
    ):  # auto: checked once they are counted, in run_images/classes.py
        yield from label_share_warnings(f"{section}.num_samples", tree[f"{section}.num_samples"], classes)


def _guidance_warnings(key: str, tree: SettingsReader) -> Iterator[str]:
    if tree["model.conditioning.type"] is None:
        yield from guidance_warnings(key, tree[key])
    else:
        yield from dropout_warnings(key, tree[key], tree["model.conditioning.class_dropout_prob"])
