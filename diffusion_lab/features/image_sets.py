"""Image sets by path or name: image folders, generated folders, npz files, runs and named sets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import cast

from diffusion_lab.checkpoint.files import is_sweep
from diffusion_lab.config.data_section import DOWNLOADED_TYPES
from diffusion_lab.console.command_line import program_name
from diffusion_lab.data.digits import digits
from diffusion_lab.data.emoji import emoji
from diffusion_lab.data.headers import read_header
from diffusion_lab.data.image_folder import ImageFolderSource
from diffusion_lab.data.parallel import map_in_order
from diffusion_lab.data.source import ImageSource
from diffusion_lab.data.torchvision_sets import TorchvisionName, torchvision_set
from diffusion_lab.features.run_images import Split, run_images
from diffusion_lab.features.stored_images import GeneratedSource, NpzSource
from diffusion_lab.files.run_files import CONFIG
from diffusion_lab.generation.verified_folder import is_generated
from diffusion_lab.run_images.sources import ready

CHECKPOINT_SUFFIXES = (".ckpt", ".safetensors", ".pt", ".pth")
DOWNLOADS = Path("data/torchvision")
"""Folder of torchvision's downloads, as in ``conf/data``."""

GENERATED = "generated"
"""Subfolder of ``output.base_dir`` for the output folders of ``sample.py``, as in ``conf/sample.yaml``."""


def open_image_set(
    path_or_name: str | Path,
    image_size: int | None = None,
    channels: int | None = None,
    *,
    split: Split | None = None,
    key: str = "images",
    size_key: str = "image_size",
    cache_dir: Path | None = None,
    cache_key: str = "cache_dir",
    trust: Collection[str] = (),
) -> ImageSource:
    """Open a set of images by path or name.

    - An image folder in any format that ``data=image_folder`` reads; class folders give labels. The images are decoded
      once, into the cache of decoded images that training also uses.
    - A finished output folder of ``sample.py``: its images in order, with the labels of its manifest.
    - An npz file of the ADM suite, or a folder that contains only such a file: ``arr_0``, and labels in ``arr_1``.
    - A run folder, a checkpoint or the folder of a sweep (its best job): the training or validation images of the run.
    - ``digits``, ``digits_heldout`` (the images that ``data=digits`` excludes from every run), ``emoji``, ``mnist``,
      ``cifar10`` and ``fashion_mnist``.

    Args:
        path_or_name: The path, or one of these names.
        image_size: Side S of the returned images; None: that of the stored ones, which must be square and of one size.
        channels: 1 (gray), 3 (RGB) or 4 (RGBA); None: 1 if all images are gray, else 3.
        split: Images of a run: ``train`` (if None) or ``val``.
        key: Setting or argument that ``path_or_name`` comes from, for error messages.
        size_key: Setting or argument that ``image_size`` comes from, for error messages.
        cache_dir: Cache folder for decoded images; None for that of the user.
        cache_key: Setting or argument that ``cache_dir`` comes from, for error messages.
        trust: Dotted paths of classes in a checkpoint that may be imported.

    Raises:
        FileNotFoundError: There is no such path or name.
        ValueError: The images have different sizes and no size is given, the set is damaged, or ``split`` or ``trust``
            is given and the set is not a run.
    """
    path = Path(path_or_name).expanduser()
    if (open_named := NAMED_SETS.get(str(path_or_name))) is not None:
        if path.exists():
            raise ValueError(
                f"{key} = {path_or_name} is the name of a set, and a path as well: write ./{path} for the path"
            )
        _check_run_options(str(path_or_name), split, trust, key)
        return open_named(image_size, channels)
    if not path.exists():
        names = ", ".join(NAMED_SETS)
        raise FileNotFoundError(
            f"{key} must be a folder of images, an npz file, a run folder, a checkpoint or one of {names}, got "
            f"{str(path_or_name)!r}, which does not exist (seen from {Path.cwd()})"
        )
    if is_run_path(path):
        return run_images(path, split or "train", image_size, channels, trust)
    _check_run_options(str(path_or_name), split, trust, key)
    if is_generated(path):
        return GeneratedSource(path, image_size, channels, key, size_key)
    if (arrays := _find_npz(path)) is not None:
        return NpzSource(arrays, image_size, channels, key, size_key)
    _check_single_set(path, key)
    source = _open_folder(path, image_size, channels, key, size_key)
    return ready(source, "disk", cache_dir, cache_key)


def is_run_path(path: Path) -> bool:
    """Return whether a path is a run, a checkpoint or a sweep, so that it stands for the images of the run."""
    return path.suffix.lower() in CHECKPOINT_SUFFIXES or _is_run(path) or is_sweep(path)


def _check_run_options(path_or_name: str, split: Split | None, trust: Collection[str], key: str) -> None:
    """Raise ValueError if an option is given that only applies to runs."""
    for name, value in (("split", split), ("trust", list(trust))):
        if value:
            raise ValueError(
                f"{name} is for runs and checkpoints, and {key} is {path_or_name!r}: leave it out, got {value!r}"
            )


def _is_run(path: Path) -> bool:
    return (path / CONFIG).is_file() and (path / "checkpoints").is_dir()


def _check_single_set(path: Path, key: str) -> None:
    """Refuse a folder of runs or generated folders: these would count as classes, and their grids as images."""
    parents = [parent for parent in (path, path / GENERATED) if parent.is_dir()]
    for folder in sorted(entry for parent in parents for entry in parent.iterdir() if entry.is_dir()):
        if _is_run(folder) or is_generated(folder):
            content = "runs" if _is_run(folder) else f"folders made by {program_name('sample')}"
            raise ValueError(
                f"{key} must be one set of images, got {str(path)!r}, which holds {content}: name one, such as {folder}"
            )


def _find_npz(path: Path) -> Path | None:
    """Return the npz file at a path: the path itself, or the only file in a folder; else None."""
    if path.suffix.lower() == ".npz":
        return path
    files = [file for file in path.iterdir() if not file.name.startswith(".")] if path.is_dir() else []
    return files[0] if len(files) == 1 and files[0].suffix.lower() == ".npz" else None


def _open_folder(
    path: Path, image_size: int | None, channels: int | None, key: str, size_key: str
) -> ImageFolderSource:
    """Open an image folder, by default with the size and channels of its images."""
    source = ImageFolderSource(path, image_size or 1, channels or 3, key=key)
    if image_size is None or channels is None:
        all_headers = map_in_order(lambda index: read_header(source.paths[index]), len(source))
        headers = [header for header in all_headers if header is not None]
        if image_size is None:
            source.image_size = _common_side(
                Counter((header.width, header.height) for header in headers), key, size_key
            )
        if channels is None:
            source.channels = 1 if headers and all(header.gray for header in headers) else 3
    return source


def _common_side(sizes: Counter[tuple[int, int]], key: str, size_key: str) -> int:
    if len(sizes) == 1:
        width, height = next(iter(sizes))
        if width == height:
            return width
    if not sizes:
        return 1  # none can be decoded, which is reported later
    listed = ", ".join(f"{count} of {width}×{height}" for (width, height), count in sizes.most_common(3))
    more = f" and {len(sizes) - 3} more sizes" if len(sizes) > 3 else ""
    problem = "are not square" if len(sizes) == 1 else "have different sizes"
    raise ValueError(
        f"{key} holds images that {problem} ({listed}{more}): set {size_key} to the side in pixels to which all "
        "are resized and cropped"
    )


def _open_torchvision_set(name: str, image_size: int | None, channels: int | None) -> ImageSource:
    default_size, default_channels = (32, 3) if name == "cifar10" else (28, 1)
    return torchvision_set(
        cast("TorchvisionName", name), DOWNLOADS, True, image_size or default_size, channels or default_channels
    )


NAMED_SETS: dict[str, Callable[[int | None, int | None], ImageSource]] = {
    "digits": lambda size, channels: digits(size or 8, channels or 1),
    "digits_heldout": lambda size, channels: digits(size or 8, channels or 1, "heldout"),
    "emoji": lambda size, channels: emoji(size or 32, channels or 3),
    **{name: partial(_open_torchvision_set, name) for name in DOWNLOADED_TYPES},
}
"""Named sets: the images of ``data=NAME`` before validation images are split off."""
