"""Images from settings: the one place that turns the ``data`` section into objects."""

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
from diffusion_lab.config.faults import ConfigWarning
from diffusion_lab.config.import_class import load_class
from diffusion_lab.data.cache_place import default_cache_dir
from diffusion_lab.data.decoded import decoded_in_memory
from diffusion_lab.data.digits import digits
from diffusion_lab.data.disk_cache import cached_on_disk
from diffusion_lab.data.emoji import emoji
from diffusion_lab.data.image_folder import ImageFolderSource
from diffusion_lab.data.remarks import Remarks
from diffusion_lab.data.source import ImageSource, Subset, renumbered
from diffusion_lab.data.split import balanced_split
from diffusion_lab.data.torchvision_sets import TorchvisionName, torchvision_set
from diffusion_lab.messages import explain
from diffusion_lab.run_images.classes import in_words, unused_classes
from diffusion_lab.run_images.suspicious_settings import validation_warnings
from diffusion_lab.terminal import on_one_line, printable


class Sources(NamedTuple):
    """The images to train on, those to validate on where they are a set of their own, and what is to be said of them.

    Attributes:
        train: Images to train on.
        val: Images to validate on; None where they are to be split off.
        remarks: What was left out, and what else the owner of the images should know.
        doubts: What is allowed and yet unlikely to be meant where a model is trained on the images.
    """

    train: ImageSource
    val: ImageSource | None = None
    remarks: Remarks = Remarks()
    doubts: tuple[str, ...] = ()


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
    doubts = () if labelled else tuple(unused_classes(train))
    if data.paths.val is None:
        return Sources(decoded, None, Remarks.of([train]), doubts)
    val = read(data.paths.val, class_names=train.class_names, key="data.paths.val")
    return Sources(decoded, ready(val, data.cache, data.cache_dir), Remarks.of([train, val]), doubts)


def ready(
    source: ImageFolderSource,
    cache: Literal["disk", "memory", "none"],
    cache_dir: Path | None = None,
    cache_key: str = "data.cache_dir",
) -> ImageSource:
    """Decode the pictures of a folder once, so that damaged ones are known and left out before any is used.

    Args:
        source: The folder.
        cache: Where they are kept once they are decoded; ``none`` decodes each one anew whenever it is asked for.
        cache_dir: Folder of the caches; None: the user's.
        cache_key: The setting or argument that ``cache_dir`` comes from, for messages.

    Raises:
        ValueError: A picture is damaged where that is fatal, none is left, or ``cache_dir`` cannot be used.
    """
    if cache == "disk":
        with contextlib.suppress(_NoCache):
            return _from_disk(source, cache_dir, cache_key)
    with progress_bar("decoding" if cache == "memory" else "checking") as told:
        if cache == "memory":
            return decoded_in_memory(source, told)
        source.check(told)
    return source


class _NoCache(Exception):
    """There is none, and none can be made."""


def _from_disk(source: ImageFolderSource, cache_dir: Path | None, cache_key: str) -> ImageSource:
    """Raises ValueError where the user's own folder of caches cannot be used; that of the system is not insisted on."""
    try:
        base = cache_dir or default_cache_dir()
        with progress_bar("decoding") as told:
            return cached_on_disk(source, base, _say, told)
    except OSError as error:
        if cache_dir:
            instead = ", or data.cache=memory" if cache_key == "data.cache_dir" else ""
            raise ValueError(
                f"{cache_key} cannot be used, got {str(cache_dir)!r}: {explain(error)}. Choose a folder "
                f"of your own{instead}"
            ) from error
        what = "data.cache = disk" if cache_key == "data.cache_dir" else "the cache of decoded images"
        rule = f"each image is decoded each time ({cache_key} chooses another folder)"
        warnings.warn(f"{what} cannot be written: {explain(error)}; {rule}", ConfigWarning, stacklevel=2)
        raise _NoCache from error


@contextlib.contextmanager
def progress_bar(doing: str, things: str = "images") -> Iterator[Callable[[int, int], None]]:
    """Show a bar on standard error from the first image on; what it gives is told (images done, images in all)."""
    columns = TextColumn(f"{doing} {things}"), BarColumn(), MofNCompleteColumn()
    bar = Progress(*columns, console=Console(stderr=True))
    tasks: list[TaskID] = []

    def told(done: int, total: int) -> None:
        if not tasks:
            tasks.append(bar.add_task(""))
            bar.start()
        bar.update(tasks[0], completed=done, total=total)

    try:
        yield told
    finally:
        if tasks:
            bar.stop()


def _digits(data: DataSettings, image_size: int, channels: int, labelled: bool) -> Sources:
    return Sources(digits(image_size, channels))


def _emoji(data: DataSettings, image_size: int, channels: int, labelled: bool) -> Sources:
    return Sources(emoji(image_size, channels, data.background))


def _torchvision(data: DataSettings, image_size: int, channels: int, labelled: bool) -> Sources:
    # The test part stays unseen: choosing the best checkpoint by it would make it a part of training.
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
"""The names that ``data.type`` takes, beside dotted paths of classes derived from ImageSource."""


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
    """Read the images of the ``data`` section, those to validate on apart.

    Args:
        data: The settings.
        image_size: Side of the images in pixels.
        channels: 1 (gray), 3 (RGB) or 4 (RGBA).
        labelled: Whether the classes matter: a folder without class folders of its own is refused then.
        validated: Whether images are kept for validation.
        class_names: The classes in the order of the numbers that a model knows them by; empty for those that the
            images have by themselves.
        key: The setting that the model comes from, for messages.

    Raises:
        ValueError: No images, classes that the model does not know, or a corrupt image where that is fatal.
    """
    if data.type in SOURCES:
        found = SOURCES[data.type](data, image_size, channels, labelled)
    else:
        found = Sources(_own_source(data, image_size, channels))
    if class_names:  # before the split, which goes by the numbers of the classes
        val = None if found.val is None else _numbered_alike(found.val, class_names, key)
        found = found._replace(train=_numbered_alike(found.train, class_names, key), val=val)
    if not validated:
        return found
    train, val, remarks, doubts = found
    if val is None:
        split = data.validation_split
        kept, held_out = balanced_split(train.labels, split.fraction, split.seed)
        train, val = Subset(train, kept), Subset(train, held_out)
    about_validation = validation_warnings(train, val, data.paths.train, data.paths.val)
    return Sources(train, val, remarks, (*doubts, *about_validation))


def _numbered_alike(source: ImageSource, class_names: Sequence[str], key: str) -> ImageSource:
    """The images with the numbers that a checkpoint gives to the names of their classes."""
    if source.class_names == tuple(class_names):
        return source
    unknown = [name for name in source.class_names if name not in class_names]
    if unknown:
        raise ValueError(
            f"{key} knows other classes than the images: its classes are "
            f"{in_words(class_names)}, and the images also have {in_words(unknown)}. Give the folders the names "
            "that they had, or train a new model (training.resume.enabled=false)"
        )
    numbers = ", ".join(f"{class_names.index(name)} {name}" for name in source.class_names)
    message = f"the classes of the images are numbered by name, as in {key}: {numbers}"
    warnings.warn(on_one_line(message), ConfigWarning, stacklevel=4)
    return renumbered(source, class_names)


def _say(text: str) -> None:
    print(printable(text), file=sys.stderr)


def _own_source(data: DataSettings, image_size: int, channels: int) -> ImageSource:
    """The user's own class, called with ``image_size``, ``channels`` and the further keys of the ``data`` section."""
    cls = load_class(data.type, "data.type")
    try:
        source: ImageSource = cls(image_size=image_size, channels=channels, **data.extra_options)
    except TypeError as error:
        raise ValueError(f"data.type {data.type} does not take these settings: {error}") from error
    if (source.image_size, source.channels) != (image_size, channels):
        raise ValueError(
            f"data.type {data.type} must give images of model.architecture.image_size {image_size} with in_channels "
            f"{channels}, got {source.image_size} with {source.channels}"
        )
    return source
