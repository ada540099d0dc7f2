"""Rules that involve several keys of ``evaluate.py``: consistent comparisons, and no unused settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from diffusion_lab.cli.evaluate_schema import NAMED_SETS
from diffusion_lab.config.evaluation_section import WITH_WEIGHTS_FILE
from diffusion_lab.faults import Fault
from diffusion_lab.typed_settings.settings_reader import SettingsReader, Unreadable

Typed = Callable[[str], bool]
"""Returns whether the command line sets a key."""

GENERATION_KEYS = (
    "generation.sampling.guidance_scale",
    "generation.sampling.use_ema",
    "generation.sampling.ema_decay",
    "generation.sampling.batch_size",
    "generation.sampling.precision",
    "sampler",
    "guidance",
    "model",
    "diffusion",
    "conditioning",
)
"""Keys and groups that determine how images are generated."""

SHORT = {
    "generation.sampling.guidance_scale": "guidance_scale",
    "generation.sampling.use_ema": "use_ema",
    "generation.sampling.ema_decay": "ema_decay",
    "evaluation.split": "split",
    "evaluation.weights": "weights",
}
"""Short names of keys, as typed on the command line."""


def evaluation_faults(tree: SettingsReader, typed: Typed) -> list[Fault]:
    """Return the faults of keys that are valid alone and not together."""
    faults: list[Fault] = []
    for rule in (_has_images_to_evaluate, _paths_exist, _weights_are_used):
        faults += _until_unreadable(rule(tree))
    for rule_of_typed in (_generation_is_used, _run_data_is_used):
        faults += _until_unreadable(rule_of_typed(tree, typed))
    return faults


def _until_unreadable(faults: Iterator[Fault]) -> Iterator[Fault]:
    """Yield the faults up to a key that has a fault of its own, which has been reported."""
    try:
        yield from faults
    except Unreadable:
        return


def _has_images_to_evaluate(tree: SettingsReader) -> Iterator[Fault]:
    checkpoint, samples = tree["generation.checkpoint"], tree["evaluation.samples"]
    reference = tree["evaluation.reference"]
    if checkpoint is None and samples is None:
        rule = "must be a checkpoint file, a run folder or a sweep (ckpt=PATH), or samples=DIR must name images"
        yield Fault("generation.checkpoint", rule, None)
    elif checkpoint is None and reference is None:
        rule = "must be a folder of real images to compare with (reference=DIR), or ckpt=PATH a run with its own data"
        yield Fault("evaluation.reference", rule, None)
    seed = tree["compute.seed"]
    if isinstance(seed, list | tuple) and samples is not None:
        yield Fault("compute.seed", "must be one number, since evaluation.samples names existing images", seed)
    if checkpoint is None or samples is None:
        return
    if reference is not None:
        rule = (
            "is not read, since evaluation.reference names the images to compare evaluation.samples with; leave one of "
            "the two out"
        )
        yield Fault("generation.checkpoint", rule, _plain(checkpoint))
    elif isinstance(checkpoint, list | tuple):
        rule = "must be one run, to compare evaluation.samples with its data"
        yield Fault("generation.checkpoint", rule, _plain(checkpoint))


def _plain(paths: Any) -> str | list[str]:
    """One path or several, as they were typed."""
    return list(map(str, paths)) if isinstance(paths, list | tuple) else str(paths)


def _paths_exist(tree: SettingsReader) -> Iterator[Fault]:
    for key in ("evaluation.samples", "evaluation.reference", "evaluation.held_out"):
        value = tree[key]
        for path in value if isinstance(value, list | tuple) else [value]:
            if path is not None and str(path) not in NAMED_SETS and not _exists(path):
                rule = f"must be an existing folder of images, an npz file, a run, or one of {', '.join(NAMED_SETS)}"
                yield Fault(key, rule, str(path))
    path = tree["evaluation.weights"]
    if path is not None and not _exists(path):
        yield Fault("evaluation.weights", "must be an existing file of weights", str(path))
    for key in ("data.paths.train", "data.paths.val"):
        if tree[key] is not None and not _exists(tree[key]):
            yield Fault(key, "must be an existing folder of images", str(tree[key]))


def _exists(path: str | Path) -> bool:
    """Return whether a path exists; invalid paths do not."""
    try:
        return Path(path).exists()
    except OSError:
        return False


def _weights_are_used(tree: SettingsReader) -> Iterator[Fault]:
    features, weights = tree["evaluation.features"], tree["evaluation.weights"]
    if weights is not None and features not in WITH_WEIGHTS_FILE and "." not in features:
        rule = f"is only used with features={', '.join(WITH_WEIGHTS_FILE)}, got features={features}; leave it out"
        yield Fault("evaluation.weights", rule, str(weights))
    if tree["evaluation.sha256"] is not None and weights is None:
        yield Fault("evaluation.sha256", "is that of evaluation.weights, which is null", tree["evaluation.sha256"])


def _generation_is_used(tree: SettingsReader, typed: Typed) -> Iterator[Fault]:
    if tree["evaluation.samples"] is None:
        return
    for key in GENERATION_KEYS:
        if typed(key) or (key in SHORT and typed(SHORT[key])):
            yield Fault(key, "has no effect, since evaluation.samples names existing images; leave it out")


def _run_data_is_used(tree: SettingsReader, typed: Typed) -> Iterator[Fault]:
    if tree["evaluation.reference"] is None:
        if tree["evaluation.held_out"] is not None:
            rule = "requires evaluation.reference; the data of a run has its own split"
            yield Fault("evaluation.held_out", rule, str(tree["evaluation.held_out"]))
        if tree["evaluation.image_size"] is not None:
            rule = "requires evaluation.reference; the images of a run have the size of its model; leave it out"
            yield Fault("evaluation.image_size", rule, tree["evaluation.image_size"])
        return
    reads_run = tree["generation.checkpoint"] is not None and "memorization" in tree["evaluation.metrics"]
    for key in ("data.paths.train", "data.paths.val"):
        if tree[key] is not None and not reads_run:
            rule = (
                "has no effect, since evaluation.reference names the images to compare with, and those of a run are "
                "read for memorization alone; leave it out"
            )
            yield Fault(key, rule, str(tree[key]))
    if typed("evaluation.split") or typed("split") or tree["evaluation.split"] != "train":
        rule = "has no effect, since evaluation.reference names the images to compare with; leave it out"
        yield Fault("evaluation.split", rule, tree["evaluation.split"])
