"""Messages about the files of a folder of images that are not trained on, or not without a remark."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence

from diffusion_lab.data.decoder_warnings import named_decoder_warnings
from diffusion_lab.data.formats import how_to_read, picture_suffixes
from diffusion_lab.data.left_out import DataWarning, LeftOutPicture, OtherFiles, Reason, listed
from diffusion_lab.terminal import printable

FREQUENT_SUFFIXES = (".png", ".jpg", ".webp", ".bmp", ".gif", ".tif", ".avif", ".heic")


def report_left_out(key: str, pictures: Sequence[LeftOutPicture], max_pixels: int, fatal: bool) -> None:
    """Name and count the pictures that cannot be decoded, in one warning for each reason.

    Args:
        key: The setting that the folder comes from.
        pictures: At least one.
        max_pixels: The limit that some of them exceed.
        fatal: Whether they are an error.

    Raises:
        ValueError: They are.
    """
    effect = ", and data.on_corrupt = error (skip to leave them out)" if fatal else " skipped"
    messages = []
    for reason, what in (
        (Reason.DAMAGED, "corrupt image(s)"),
        (Reason.TOO_LARGE, f"image(s) larger than data.max_pixels = {max_pixels}"),
    ):
        if found := [picture for picture in pictures if picture.reason is reason]:
            messages.append(f"{key}: {len(found)} {what}{effect}:\n{listed(found)}")
    if fatal:
        raise ValueError("\n".join(messages))
    for message in messages:
        warnings.warn(message, DataWarning, stacklevel=4)


def report_others(key: str, others: OtherFiles) -> None:
    """Count and name, in a warning each, the files that are no pictures and the folders that cannot be read."""
    for message in other_files_in_words(key, others):
        warnings.warn(message, DataWarning, stacklevel=4)


def other_files_in_words(key: str, others: OtherFiles) -> Iterator[str]:
    if others.counts:
        kinds = "; ".join(others.kinds(how_to_read))
        yield f"{key}: {others.counts.total()} file(s) that are not read as pictures are left out: {kinds}"
    if others.unreadable:
        folders = [printable(name) for name in others.unreadable]
        yield f"{key}: {len(folders)} folder(s) that cannot be read are left out:\n{listed(folders)}"


@contextlib.contextmanager
def reporting_decoder_warnings(key: str) -> Iterator[None]:
    """Tell in one warning, with the files' names, what the decoders warn of meanwhile."""
    with named_decoder_warnings() as found:
        yield
    if found:
        lines = [printable(f"{file}: {said}") for file, said in sorted(found.items())]
        message = f"{key}: {len(found)} image(s) with damaged metadata, used as they are:\n{listed(lines)}"
        warnings.warn(message, DataWarning, stacklevel=4)


def what_is_there_instead(others: OtherFiles) -> str:
    """What a folder without images holds."""
    if others.unreadable:
        return f"{len(others.unreadable)} folder(s) that cannot be read"
    if not others.counts:
        return "no files"
    return "only " + "; ".join(others.kinds(how_to_read))


def what_is_expected() -> str:
    """Which files are pictures."""
    suffixes = [suffix for suffix in FREQUENT_SUFFIXES if suffix in picture_suffixes()]
    return f"expected pictures ({', '.join(suffixes)} and what else Pillow reads), in class subfolders or directly"
