"""Rules about the paths in the settings: of images, and of checkpoints to resume or to sample from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from diffusion_lab.config.data_section import DOWNLOADED_TYPES, SELF_CONTAINED_TYPES
from diffusion_lab.config.faults import Fault
from diffusion_lab.config.settings_reader import SettingsReader


def image_paths_fit_the_type(tree: SettingsReader) -> Iterator[Fault]:
    if tree["mode"] != "train":
        return
    kind = tree["data.type"]
    paths = {key: tree[key] for key in ("data.paths.train", "data.paths.val")}
    if kind in DOWNLOADED_TYPES and paths["data.paths.val"]:
        rule = f"must be null with data.type {kind}: validation images are split off the training images"
        yield Fault("data.paths.val", rule, paths["data.paths.val"])
    if kind in SELF_CONTAINED_TYPES:
        rule = f"must be null with data.type {kind}, which brings its own images (yours: data.type image_folder)"
        yield from (Fault(key, rule, path) for key, path in paths.items() if path is not None)
        return
    if paths["data.paths.train"] is None and "." not in kind:
        wanted = "an existing folder of images" if kind == "image_folder" else "the folder to download to"
        yield Fault("data.paths.train", f"required with data.type {kind}: {wanted}", None)


def images_are_there(tree: SettingsReader) -> Iterator[Fault]:
    """Asked when a run starts: settings may be checked on another machine."""
    if tree["mode"] != "train" or tree["data.type"] != "image_folder":
        return
    for key in ("data.paths.train", "data.paths.val"):
        path = tree[key]
        if path and not _is_there(path, Path.is_dir):
            yield Fault(key, "must be an existing folder of images, flat or with one subfolder a class", path)


def resumes_from_something(tree: SettingsReader) -> Iterator[Fault]:
    enabled = tree["mode"] == "train" and tree["training.resume.enabled"]
    if enabled and tree["training.resume.checkpoint"] != "auto":
        rule = "with training.resume.enabled must be an existing checkpoint file or run folder, or auto"
        yield from _existing("training.resume.checkpoint", rule, tree)


def generates_from_something(tree: SettingsReader) -> Iterator[Fault]:
    if tree["mode"] == "generate":
        rule = "must be an existing checkpoint file or run folder (ckpt=PATH)"
        yield from _existing("generation.checkpoint", rule, tree)


def _is_there(path: str | Path, check: Callable[[Path], bool]) -> bool:
    """Whether a path passes ``check``; one that no file system takes, for its length, does not."""
    try:
        return check(Path(path))
    except OSError:
        return False


def _existing(key: str, rule: str, tree: SettingsReader) -> Iterator[Fault]:
    path = tree[key]
    if path is None or not _is_there(path, Path.exists):
        yield Fault(key, rule, path)
