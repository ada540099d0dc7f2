"""Rules about paths: of images, of checkpoints to resume or to sample from, and of folders that a run writes to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from diffusion_lab.config.data_section import DOWNLOADED_TYPES, SELF_CONTAINED_TYPES
from diffusion_lab.faults import Fault, closest, sibling_key
from diffusion_lab.typed_settings.settings_reader import SettingsReader


def check_image_paths(tree: SettingsReader) -> Iterator[Fault]:
    if tree["mode"] != "train":
        return
    kind = tree["data.type"]
    paths = {key: tree[key] for key in ("data.paths.train", "data.paths.val")}
    if kind in DOWNLOADED_TYPES and paths["data.paths.val"]:
        rule = f"must be null with data.type {kind}: validation images are split off the training images"
        yield Fault("data.paths.val", rule, paths["data.paths.val"])
    if kind in SELF_CONTAINED_TYPES:
        rule = f"must be null with data.type {kind}, which has its own images (for yours: data.type image_folder)"
        yield from (Fault(key, rule, path) for key, path in paths.items() if path is not None)
        return
    if paths["data.paths.train"] is None and kind in ("image_folder", *DOWNLOADED_TYPES):
        requirement = "an existing folder of images" if kind == "image_folder" else "the folder to download to"
        yield Fault("data.paths.train", f"required with data.type {kind}: {requirement}", None)


def missing_image_folders(tree: SettingsReader) -> Iterator[Fault]:
    """Yield faults of missing image folders when a run starts; settings may be validated on another machine."""
    if tree["mode"] != "train" or tree["data.type"] != "image_folder":
        return
    for key in ("data.paths.train", "data.paths.val"):
        path = tree[key]
        if path and not _satisfies(path, Path.is_dir):
            yield Fault(key, "must be an existing folder of images, flat or with one subfolder a class", path)


def check_resume_checkpoint(tree: SettingsReader) -> Iterator[Fault]:
    enabled = tree["mode"] == "train" and tree["training.resume.enabled"]
    if enabled and tree["training.resume.checkpoint"] != "auto":
        rule = "with training.resume.enabled must be an existing checkpoint file or run folder, or auto"
        yield from _missing_faults("training.resume.checkpoint", rule, tree)


def check_generation_checkpoint(tree: SettingsReader) -> Iterator[Fault]:
    if tree["mode"] == "generate":
        rule = "must be an existing checkpoint file or run folder (ckpt=PATH)"
        yield from _missing_faults("generation.checkpoint", rule, tree)


def _satisfies(path: str | Path, check: Callable[[Path], bool]) -> bool:
    """Return whether a path passes ``check``; invalid paths, such as too long ones, do not."""
    try:
        return check(Path(path))
    except OSError:
        return False


def _missing_faults(key: str, rule: str, tree: SettingsReader) -> Iterator[Fault]:
    path = tree[key]
    if path is None or not _satisfies(path, Path.exists):
        yield Fault(key, rule, path)


def outside_links(tree: SettingsReader) -> Iterator[Fault]:
    """Yield faults of folders inside ``output.base_dir`` that are links out of it; checked when a run starts."""
    base = Path(tree["output.base_dir"]).resolve()
    for name in tree.section("output.subdirs"):
        key = f"output.subdirs.{name}"
        target = (base / tree[key]).resolve()
        if base not in target.parents:
            rule = f"must stay inside output.base_dir, but is a link to {target}"
            yield Fault(key, rule, tree[key])


def misspelled_subfolders(tree: SettingsReader) -> Iterator[Fault]:
    """Yield faults of additional names that resemble a missing one of the project, which they probably misspell."""
    subfolders, own = tree.section("output.subdirs"), tree.schema_of("output.subdirs").model_fields.keys()
    for name in subfolders.keys() - own:
        key = f"output.subdirs.{name}"
        suggestion = closest(name, own - subfolders.keys(), cutoff=0.75)
        if suggestion:
            yield Fault(key, "unknown key", subfolders[name], sibling_key(key, suggestion))
