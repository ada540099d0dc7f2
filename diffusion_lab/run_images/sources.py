"""Images from settings: the only module that turns the ``data`` section into objects."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple, cast

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from diffusion_lab.config.data_section import DataSettings
from diffusion_lab.console.messages import explain
from diffusion_lab.console.terminal import on_one_line, printable
from diffusion_lab.data.cache_location import default_cache_dir
from diffusion_lab.data.decoded import decode_in_memory
from diffusion_lab.data.digits import digits
from diffusion_lab.data.disk_cache import cached_on_disk
from diffusion_lab.data.emoji import emoji
from diffusion_lab.data.image_folder import ImageFolderSource
from diffusion_lab.data.remarks import Remarks
from diffusion_lab.data.source import ImageSource, Subset, renumber_classes
from diffusion_lab.data.split import balanced_split
from diffusion_lab.data.torchvision_sets import TorchvisionName, torchvision_set
from diffusion_lab.faults import ConfigWarning
from diffusion_lab.run_images.classes import list_classes, unused_classes
from diffusion_lab.run_images.suspicious_settings import validation_warnings


class Sources(NamedTuple):
    """Training images, validation images if they are a separate set, and messages about them.

    Attributes:
        train: Training images.
        val: Validation images; None if they are to be split off.
        remarks: Skipped files, and what else the owner of the images should know.
        warnings: Warnings about valid but probably unintended settings for training on the images.
    """

    train: ImageSource
    val: ImageSource | None = None
    remarks: Remarks = Remarks()
    warnings: tuple[str, ...] = ()


def _image_folder(data: DataSettings, image_size: int, channels: int, labelled: bool) -> Sources:
    read = partial(
        ImageFolderSource,
        image_size=image_size,
        channels=channels,
        crop=data.crop,
        background=data.background,
        on_corrupt=data.on_corrupt,
        max_pixels=data.max_pixels,
        labelled=labelled,
    )
    train = read(data.paths.train or "")
    decoded = ready(train, data.cache, data.cache_dir)
    messages = () if labelled else tuple(unused_classes(train))
    if data.paths.val is None:
        return Sources(decoded, None, Remarks.from_folders([train]), messages)
    val = read(data.paths.val, class_names=train.class_names, key="data.paths.val")
    return Sources(decoded, ready(val, data.cache, data.cache_dir), Remarks.from_folders([train, val]), messages)


def ready(
    source: ImageFolderSource,
    cache: Literal["disk", "memory", "none"],
    cache_dir: Path | None = None,
    cache_key: str = "data.cache_dir",
) -> ImageSource:
    """Decode the images of a folder once, so that damaged ones are skipped before any is used.

    Args:
        source: The folder.
        cache: Cache of the decoded images; ``none`` decodes an image whenever it is loaded.
        cache_dir: Folder of the caches; the user's cache folder if None.
        cache_key: The setting or argument that ``cache_dir`` comes from, for messages.

    Raises:
        ValueError: An image is damaged and that is an error, no image is left, or ``cache_dir`` cannot be used.
    """
    if cache == "disk":
        with contextlib.suppress(_NoCache):
            return _from_disk(source, cache_dir, cache_key)
    with progress_bar("decoding" if cache == "memory" else "checking") as report_progress:
        if cache == "memory":
            return decode_in_memory(source, report_progress)
        source.check(report_progress)
    return source


class _NoCache(Exception):
    """Error: no cache on the disk exists or can be created."""


def _from_disk(source: ImageFolderSource, cache_dir: Path | None, cache_key: str) -> ImageSource:
    """Return the images from the cache on the disk.

    Raises:
        ValueError: ``cache_dir`` is set and cannot be used.
        _NoCache: The default folder cannot be used.
    """
    try:
        base = cache_dir or default_cache_dir()
        with progress_bar("decoding") as report_progress:
            return cached_on_disk(source, base, _print_line, report_progress)
    except OSError as error:
        if cache_dir:
            instead = ", or data.cache=memory" if cache_key == "data.cache_dir" else ""
            raise ValueError(
                f"{cache_key} cannot be used, got {str(cache_dir)!r}: {explain(error)}. Choose another folder{instead}"
            ) from error
        what = "data.cache = disk" if cache_key == "data.cache_dir" else "the cache of decoded images"
        rule = f"each image is decoded each time ({cache_key} chooses another folder)"
        warnings.warn(f"{what} cannot be written: {explain(error)}; {rule}", ConfigWarning, stacklevel=2)
        raise _NoCache from error


@contextlib.contextmanager
def progress_bar(doing: str, things: str = "images") -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar on standard error; yields a function to call with (images done, number of images)."""
    columns = TextColumn(f"{doing} {things}"), BarColumn(), MofNCompleteColumn()
    console = Console(stderr=True)
    bar = Progress(*columns, console=console, disable=console.is_jupyter)  # in a notebook it would need ipywidgets
    tasks: list[TaskID] = []

    def report_progress(done: int, total: int) -> None:
        if not tasks:
            tasks.append(bar.add_task(""))
            bar.start()
        bar.update(tasks[0], completed=done, total=total)

    try:
        yield report_progress
    finally:
        if tasks:
            bar.stop()


def _digits(data: DataSettings, image_size: int, channels: int, labelled: bool) -> Sources:
    return Sources(digits(image_size, channels))


def _emoji(data: DataSettings, image_size: int, channels: int, labelled: bool) -> Sources:
    return Sources(emoji(image_size, channels, data.background))


def _torchvision(data: DataSettings, image_size: int, channels: int, labelled: bool) -> Sources:
    # The test set stays unseen: selecting the best checkpoint by it would make it a part of training.
    name = cast("TorchvisionName", data.type)
    return Sources(torchvision_set(name, data.paths.train or "", True, image_size, channels))


SOURCES: dict[str, Callable[[DataSettings, int, int, bool], Sources]] = {
    "image_folder": _image_folder,
    "digits": _digits,
    "emoji": _emoji,
    "mnist": _torchvision,
    "cifar10": _torchvision,
    "fashion_mnist": _torchvision,
}
"""Names that ``data.type`` accepts, besides dotted paths of classes derived from ImageSource."""


def read_sources(
    data: DataSettings,
    image_size: int,
    channels: int,
    *,
    labelled: bool,
    validated: bool,
    class_names: Sequence[str] = (),
    key: str = "training.resume.checkpoint",
) -> Sources:
    """Read the training and validation images of the ``data`` section.

    Args:
        data: The settings.
        image_size: Side of the images in pixels.
        channels: 1 (gray), 3 (RGB) or 4 (RGBA).
        labelled: Whether classes are needed: a folder without class folders is refused then.
        validated: Whether to hold out images for validation.
        class_names: The classes of the model in the order of their numbers; empty for the classes of the images.
        key: The setting that the model comes from, for messages.

    Raises:
        ValueError: There are no images, the model does not know a class, or an image is corrupt and that is an error.
    """
    if data.type in SOURCES:
        sources = SOURCES[data.type](data, image_size, channels, labelled)
    else:
        sources = Sources(_create_source(data, image_size, channels))
    if class_names:  # before the split, which depends on the numbers of the classes
        val = None if sources.val is None else _renumbered(sources.val, class_names, key)
        sources = sources._replace(train=_renumbered(sources.train, class_names, key), val=val)
    if not validated:
        return sources
    train, val, remarks, messages = sources
    if val is None:
        split = data.validation_split
        kept, held_out = balanced_split(train.labels, split.fraction, split.seed)
        train, val = Subset(train, kept), Subset(train, held_out)
    about_validation = validation_warnings(train, val, data.paths.train, data.paths.val)
    return Sources(train, val, remarks, (*messages, *about_validation))


def _renumbered(source: ImageSource, class_names: Sequence[str], key: str) -> ImageSource:
    """Return the images with the labels that a checkpoint has for the names of their classes."""
    if source.class_names == tuple(class_names):
        return source
    unknown = [name for name in source.class_names if name not in class_names]
    if unknown:
        raise ValueError(
            f"{key} knows other classes than the images: its classes are "
            f"{list_classes(class_names)}, and the images also have {list_classes(unknown)}. Give the folders their "
            "earlier names, or train a new model (training.resume.enabled=false)"
        )
    numbers = ", ".join(f"{class_names.index(name)} {name}" for name in source.class_names)
    message = f"the classes of the images are numbered by name, as in {key}: {numbers}"
    warnings.warn(on_one_line(message), ConfigWarning, stacklevel=4)
    return renumber_classes(source, class_names)


def _print_line(text: str) -> None:
    print(printable(text), file=sys.stderr)


def _create_source(data: DataSettings, image_size: int, channels: int) -> ImageSource:
    """Create a custom source from ``image_size``, ``channels`` and the further keys of the ``data`` section."""
    source: ImageSource = data.build(image_size=image_size, channels=channels)
    if (source.image_size, source.channels) != (image_size, channels):
        raise ValueError(
            f"data.type {data.type} must give images of model.architecture.image_size {image_size} with in_channels "
            f"{channels}, got {source.image_size} with {source.channels}"
        )
    return source
