"""Requested images: the label, guidance scale and manifest line of each, known before it is generated."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diffusion_lab.console.command_line import setting
from diffusion_lab.console.terminal import on_one_line, printable
from diffusion_lab.denoiser import Denoiser
from diffusion_lab.faults import ConfigWarning, shown
from diffusion_lab.shapes import Pixels

MANIFEST = "manifest.jsonl"

PNG_KEY = "diffusion_lab"
"""Key of the text chunk in each PNG that holds its manifest line."""

KEYS = {
    "seed": "compute.seed",
    "sampler": "sampler.type",
    "sampler_options": "the options of sampler",
    "steps": "sampler.steps",
    "guidance_interval": "guidance.interval",
    "guidance_rescale": "guidance.rescale",
    "use_ema": "generation.sampling.use_ema",
    "ema_decay": "generation.sampling.ema_decay",
    "precision": "generation.sampling.precision",
    "checkpoint_sha256": "the SHA-256 of generation.checkpoint",
    "label": "generation.sampling.labels",
    "guidance_scale": "generation.sampling.guidance_scale",
    "file": "generation.output.save_individual",
}
"""Key of the settings that sets each field of a line."""

DIGEST = "sha256"
"""Key of the SHA-256 over the rest of a line, as written, followed by the pixels of its image."""

NUMBER = re.compile(r"[0-9]{1,18}")
"""String that may be a class number."""

LOCATION_KEYS = ("checkpoint",)
"""Fields of a line that describe where a file was, not what the image is."""


@dataclass(frozen=True)
class GenerationRequest:
    """Images of a generation, of any number: this and i determine image i.

    Args:
        metadata: Fields shared by all images, by their names in the manifest.
        labels: Labels that the images cycle through; None for an unconditional model.
        scales: Guidance scales to cycle through, each for a full cycle of the labels, so a grid with as many columns as
            there are labels has one scale per row.
        class_names: Names of the model's classes.
        files: Whether each image has its own file.
    """

    metadata: Mapping[str, Any]
    labels: tuple[int, ...] | None
    scales: tuple[float, ...]
    class_names: tuple[str, ...]
    files: bool

    @property
    def round_length(self) -> int:
        """Number of images in one cycle of the labels."""
        return len(self.labels or (None,))

    def settings(self) -> dict[str, Any]:
        """Return the settings that determine all images, by the names of a line."""
        return {
            "file": self.files,
            "label": self.labels,
            "class_name": self.class_names,
            "guidance_scale": self.scales,
            **self.metadata,
        }

    def label(self, index: int) -> int | None:
        """Return the class number of an image."""
        return None if self.labels is None else self.labels[index % len(self.labels)]

    def scale(self, index: int) -> float:
        """Return the guidance scale of an image."""
        return self.scales[index // self.round_length % len(self.scales)]

    def line(self, index: int) -> dict[str, Any]:
        """Return the manifest line of an image, without its digest."""
        label = self.label(index)
        has_name = label is not None and label < len(self.class_names)
        return {
            "file": file_name(index) if self.files else None,
            "index": index,
            "label": label,
            "class_name": self.class_names[label or 0] if has_name else None,
            "guidance_scale": self.scale(index),
            **self.metadata,
        }

    def digest(self, index: int, pixels: Pixels) -> str:
        """Return the SHA-256 that ties the pixels ``(C, H, W)`` of an image to its manifest line."""
        return digest_of(self.line(index), pixels)

    def text(self, index: int, digest: str) -> str:
        """Return the line as written, with the image's digest."""
        return json.dumps({**self.line(index), DIGEST: digest})

    def digest_in(self, line: object, index: int) -> str | None:
        """Return the digest in a line whose other fields are those of image ``index``; None for any other line."""
        if not isinstance(line, dict) or not isinstance(line.get(DIGEST), str):
            return None
        rest = {name: value for name, value in line.items() if name != DIGEST}
        return line[DIGEST] if rest == json.loads(json.dumps(self.line(index))) else None


def digest_of(line: Mapping[str, Any], pixels: Pixels) -> str:
    """Return the digest of an image, from its line (with or without the digest) and its pixels ``(C, H, W)``, uint8."""
    rest = {name: value for name, value in line.items() if name != DIGEST}
    digest = hashlib.sha256(json.dumps(rest).encode())
    digest.update(pixels.contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()


FILE_NAME = re.compile(r"sample_\d{4,}\.png")


def file_name(index: int) -> str:
    """Return the file name of an image."""
    return f"sample_{index:04d}.png"


def differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """Describe how two lines differ, other than in locations and the digest."""
    ours = json.loads(json.dumps(ours))  # tuples become lists, as in a file
    names = [name for name in {**ours, **theirs} if name not in (*LOCATION_KEYS, DIGEST)]
    return [
        f"{KEYS.get(name, name)} is {_shown(theirs.get(name))} there and {_shown(ours.get(name))} here"
        for name in names
        if theirs.get(name) != ours.get(name)
    ]


def _shown(value: object) -> str:
    return printable(shown(value, longest=200))


def cycle_labels(denoiser: Denoiser, labels: Sequence[int | str] | None) -> tuple[int, ...] | None:
    """Return the labels that images cycle through: the given ones, or all classes; None for an unconditional model.

    Cycling spreads the labels evenly, the remainder over the first ones, and gives image i the same label whatever the
    number of images.

    Args:
        denoiser: The model.
        labels: Class numbers or names: a string is a name first, a number is an index.

    Warns:
        ConfigWarning: A label is the number of one class and the name of another; the warning names the one used.

    Raises:
        ValueError: A label is not a class of the model, or the model is unconditional.
    """
    if denoiser.num_classes is None:
        if labels is not None:
            raise ValueError(f"generation.sampling.labels must be null for an unconditional model, got {list(labels)}")
        return None
    if labels is None:
        return tuple(range(denoiser.num_classes))
    distinct = dict.fromkeys(labels)  # each is looked up once: there may be many labels and many names
    numbers = dict(zip(distinct, (_class_number(denoiser, label) for label in distinct), strict=True))
    return tuple(numbers[label] for label in labels)


def _class_number(denoiser: Denoiser, label: int | str) -> int:
    """Return the class number of a label: a string is a name first, a number is an index."""
    names, count = denoiser.class_names, denoiser.num_classes or 0
    index = label if isinstance(label, int) else int(label) if NUMBER.fullmatch(label) else -1
    by_name = names.index(str(label)) if str(label) in names else None
    by_index = index if 0 <= index < count else None
    number = by_index if isinstance(label, int) or by_name is None else by_name
    if number is None:
        raise ValueError(_unknown_label(label, names, count, by_name))
    if by_name is not None and by_index is not None and by_name != by_index:
        other: int | str = str(label) if isinstance(label, int) else index
        intended = by_name if isinstance(label, int) else by_index
        warnings.warn(
            f"generation.sampling.labels: {json.dumps(label)} is taken as {describe_class(number, names)}, since a "
            f"string is a name and a number an index. For {describe_class(intended, names)} write {_override(other)}",
            ConfigWarning,
            stacklevel=5,
        )
    return number


def _unknown_label(label: int | str, names: Sequence[str], count: int, by_name: int | None) -> str:
    known = f" ({on_one_line(', '.join(names))})" if names else ""
    text = f"generation.sampling.labels must be classes of the model, 0 to {count - 1}{known}, got {label!r}"
    if by_name is None:
        return text
    return f"{text}: a number is an index. For the class of that name write {_override(str(label))}"


def _override(label: int | str) -> str:
    """Return the override to type for a label."""
    return shlex.quote(setting(KEYS["label"], [label]))


def describe_class(number: int, names: Sequence[str]) -> str:
    """Describe a class by its number and name.

    >>> describe_class(1, ["rose", "tulip"])
    'class 1 ("tulip")'
    """
    return f'class {number} ("{on_one_line(names[number])}")' if number < len(names) else f"class {number}"
