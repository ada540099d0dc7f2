"""Messages about skipped and suspicious files in an image folder."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence

from diffusion_lab.console.terminal import printable
from diffusion_lab.data.decoder_warnings import collect_decoder_warnings
from diffusion_lab.data.formats import image_suffixes, install_hint
from diffusion_lab.data.skipped_images import DataWarning, OtherFiles, Reason, SkippedImage, format_lines

FREQUENT_SUFFIXES = (".png", ".jpg", ".webp", ".bmp", ".gif", ".tif", ".avif", ".heic")


def report_skipped(key: str, images: Sequence[SkippedImage], max_pixels: int, fatal: bool) -> None:
    """Name and count the images that cannot be decoded, in one warning per reason.

    Args:
        key: Setting that the folder comes from.
        images: At least one image.
        max_pixels: Limit that some of them exceed.
        fatal: Whether they are an error.

    Raises:
        ValueError: ``fatal`` is set.
    """
    effect = ", and data.on_corrupt = error (set it to skip to ignore them)" if fatal else " skipped"
    messages = []
    for reason, what in (
        (Reason.DAMAGED, "corrupt image(s)"),
        (Reason.TOO_LARGE, f"image(s) larger than data.max_pixels = {max_pixels}"),
    ):
        if affected := [image for image in images if image.reason is reason]:
            messages.append(f"{key}: {len(affected)} {what}{effect}:\n{format_lines(affected)}")
    if fatal:
        raise ValueError("\n".join(messages))
    for message in messages:
        warnings.warn(message, DataWarning, stacklevel=4)


def report_other_files(key: str, others: OtherFiles) -> None:
    """Count and name, in one warning each, the files that are not images and the folders that cannot be read."""
    for message in describe_other_files(key, others):
        warnings.warn(message, DataWarning, stacklevel=4)


def describe_other_files(key: str, others: OtherFiles) -> Iterator[str]:
    """Yield messages on files that are not images and folders that cannot be read."""
    if others.counts:
        kinds = "; ".join(others.kinds(install_hint))
        yield f"{key}: {others.counts.total()} file(s) that are not read as images are skipped: {kinds}"
    if others.unreadable:
        folders = [printable(name) for name in others.unreadable]
        yield f"{key}: {len(folders)} folder(s) that cannot be read are skipped:\n{format_lines(folders)}"


@contextlib.contextmanager
def report_decoder_warnings(key: str) -> Iterator[None]:
    """Combine the warnings of image decoders inside the block into one, with the files' names."""
    with collect_decoder_warnings() as warned:
        yield
    if warned:
        lines = [printable(f"{file}: {message}") for file, message in sorted(warned.items())]
        message = f"{key}: {len(warned)} image(s) with damaged metadata, used as they are:\n{format_lines(lines)}"
        warnings.warn(message, DataWarning, stacklevel=4)


def describe_contents(others: OtherFiles) -> str:
    """Describe what a folder without images holds."""
    if others.unreadable:
        return f"{len(others.unreadable)} folder(s) that cannot be read"
    if not others.counts:
        return "no files"
    return "only " + "; ".join(others.kinds(install_hint))


def describe_expected_files() -> str:
    """Describe which files are read as images."""
    suffixes = [suffix for suffix in FREQUENT_SUFFIXES if suffix in image_suffixes()]
    return f"expected images ({', '.join(suffixes)} and others that Pillow reads), in class subfolders or directly"
