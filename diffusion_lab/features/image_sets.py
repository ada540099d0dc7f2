"""Any set of images by its path or its name: folders of pictures, generated folders, npz files, runs, named sets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import cast

from diffusion_lab.checkpoint.files import is_sweep
from diffusion_lab.config.data_section import DOWNLOADED_TYPES
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
"""Where torchvision keeps the sets that it fetches, as ``conf/data`` has it."""

GENERATED = "generated"
"""Where ``sample.py`` makes its folders within ``output.base_dir``, as ``conf/sample.yaml`` has it."""


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
    """Open a set of images by its path or its name.

    - A folder of pictures in any format that ``data=image_folder`` reads; class folders give labels. The pictures are
      decoded once, into the cache of decoded pictures that training uses as well.
    - A folder that ``sample.py`` has finished: its images in order, with the labels of its manifest.
    - An npz of the ADM suite, or a folder that holds one and nothing else to read: ``arr_0``, and labels in ``arr_1``.
    - A run folder, a checkpoint or the folder of a sweep (its best job): the images that the run was trained on or
      validated on.
    - ``digits``, ``digits_heldout`` (those that ``data=digits`` keeps from every run), ``emoji``, ``mnist``,
      ``cifar10`` and ``fashion_mnist``.

    Args:
        path_or_name: The path, or one of these names.
        image_size: Side S of the images that come out; None: as they are, which must then be square and of one size.
        channels: 1 (gray), 3 (RGB) or 4 (RGBA); None: 1 where all images are gray, else 3.
        split: Which images of a run: ``train`` (where None) or ``val``.
        key: The setting or argument that ``path_or_name`` comes from, for messages.
        size_key: The one that ``image_size`` comes from.
        cache_dir: Folder of the caches of decoded pictures; None: the user's.
        cache_key: The setting or argument that ``cache_dir`` comes from.
        trust: Dotted paths of classes that may be imported because a checkpoint names them.

    Raises:
        FileNotFoundError: There is nothing of that path or name.
        ValueError: The images are of different sizes and no size is given, the set is damaged, or ``split`` or
            ``trust`` is given and the set is no run.
    """
    path = Path(path_or_name).expanduser()
    if (named := NAMED.get(str(path_or_name))) is not None:
        if path.exists():
            raise ValueError(
                f"{key} = {path_or_name} is the name of a set, and a path as well: write ./{path} for the path"
            )
        _refuse_choice_of_run(str(path_or_name), split, trust, key)
        return named(image_size, channels)
    if not path.exists():
        names = ", ".join(NAMED)
        raise FileNotFoundError(
            f"{key} must be a folder of images, an npz file, a run folder, a checkpoint or one of {names}, got "
            f"{str(path_or_name)!r}, which does not exist (seen from {Path.cwd()})"
        )
    if means_run(path):
        return run_images(path, split or "train", image_size, channels, trust)
    _refuse_choice_of_run(str(path_or_name), split, trust, key)
    if is_generated(path):
        return GeneratedSource(path, image_size, channels, key, size_key)
    if (arrays := _npz_of(path)) is not None:
        return NpzSource(arrays, image_size, channels, key, size_key)
    _refuse_folder_of_folders(path, key)
    source = _folder(path, image_size, channels, key, size_key)
    return ready(source, "disk", cache_dir, cache_key)


def means_run(path: Path) -> bool:
    """Whether a path is that of a run, a checkpoint or a sweep, which means the images of the run."""
    return path.suffix.lower() in CHECKPOINT_SUFFIXES or _is_run(path) or is_sweep(path)


def _refuse_choice_of_run(given: str, split: Split | None, trust: Collection[str], key: str) -> None:
    """Raise ValueError where something is chosen that only runs have."""
    for name, value in (("split", split), ("trust", list(trust))):
        if value:
            raise ValueError(f"{name} is for runs and checkpoints, and {key} is {given!r}: leave it out, got {value!r}")


def _is_run(path: Path) -> bool:
    return (path / CONFIG).is_file() and (path / "checkpoints").is_dir()


def _refuse_folder_of_folders(path: Path, key: str) -> None:
    """Refuse what holds runs or generated folders: these would be taken for classes, and their grids for images."""
    tops = [top for top in (path, path / GENERATED) if top.is_dir()]
    for folder in sorted(entry for top in tops for entry in top.iterdir() if entry.is_dir()):
        if _is_run(folder) or is_generated(folder):
            what = "runs" if _is_run(folder) else "folders made by sample.py"
            raise ValueError(
                f"{key} must be one set of images, got {str(path)!r}, which holds {what}: name one, as {folder}"
            )


def _npz_of(path: Path) -> Path | None:
    """The npz file that a path means: itself, or the only thing to read in a folder."""
    if path.suffix.lower() == ".npz":
        return path
    files = [file for file in path.iterdir() if not file.name.startswith(".")] if path.is_dir() else []
    return files[0] if len(files) == 1 and files[0].suffix.lower() == ".npz" else None


def _folder(path: Path, image_size: int | None, channels: int | None, key: str, size_key: str) -> ImageFolderSource:
    """The pictures in a folder, at their own size and with their own channels where none are given."""
    source = ImageFolderSource(path, image_size or 1, channels or 3, key=key)
    if image_size is None or channels is None:
        read = map_in_order(lambda index: read_header(source.paths[index]), len(source))
        headers = [found for found in read if found is not None]
        if image_size is None:
            source.image_size = _side(Counter((header.width, header.height) for header in headers), key, size_key)
        if channels is None:
            source.channels = 1 if headers and all(header.gray for header in headers) else 3
    return source


def _side(sizes: Counter[tuple[int, int]], key: str, size_key: str) -> int:
    if len(sizes) == 1:
        width, height = next(iter(sizes))
        if width == height:
            return width
    if not sizes:
        return 1  # none can be decoded, as will be said
    told = ", ".join(f"{count} of {width}×{height}" for (width, height), count in sizes.most_common(3))
    more = f" and {len(sizes) - 3} more sizes" if len(sizes) > 3 else ""
    what = "are not square" if len(sizes) == 1 else "have different sizes"
    raise ValueError(
        f"{key} holds images that {what} ({told}{more}): set {size_key} to the side in pixels that all are resized and "
        "cut to"
    )


def _downloaded(name: str, image_size: int | None, channels: int | None) -> ImageSource:
    size, own = (32, 3) if name == "cifar10" else (28, 1)
    return torchvision_set(cast("TorchvisionName", name), DOWNLOADS, True, image_size or size, channels or own)


NAMED: dict[str, Callable[[int | None, int | None], ImageSource]] = {
    "digits": lambda size, channels: digits(size or 8, channels or 1),
    "digits_heldout": lambda size, channels: digits(size or 8, channels or 1, "heldout"),
    "emoji": lambda size, channels: emoji(size or 32, channels or 3),
    **{name: partial(_downloaded, name) for name in DOWNLOADED_TYPES},
}
"""Sets that have a name; the images that ``data=NAME`` trains on, before any are split off."""
