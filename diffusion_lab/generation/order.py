"""What is asked for and what is known of every image before it is made: its label, its scale, its line."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diffusion_lab.command_line import setting
from diffusion_lab.config.faults import ConfigWarning, shown
from diffusion_lab.denoiser import Denoiser
from diffusion_lab.shapes import Pixels
from diffusion_lab.terminal import on_one_line, printable

MANIFEST = "manifest.jsonl"

PNG_KEY = "diffusion_lab"
"""Key of the text chunk in each PNG that holds its line of the manifest."""

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
"""What in a line is set by which key of the settings."""

DIGEST = "sha256"
"""Key of the SHA-256 of the rest of a line, as it is written, followed by the pixels of its image."""

NUMBER = re.compile(r"[0-9]{1,18}")
"""A text that may stand for a class number."""

PLACES = ("checkpoint",)
"""What in a line tells where something lay, and not what the image is."""


@dataclass(frozen=True)
class Order:
    """The images of a generation, however many: image i is known from this and i.

    Args:
        about: What holds for all images, by its name in the manifest.
        labels: The labels that images take in turn; None for an unconditional model.
        scales: The guidance scales in turn, each for a whole round of the labels: so a grid with as many columns as
            there are labels has one scale a row.
        class_names: Names of the model's classes.
        files: Whether each image has a file of its own.
    """

    about: Mapping[str, Any]
    labels: tuple[int, ...] | None
    scales: tuple[float, ...]
    class_names: tuple[str, ...]
    files: bool

    @property
    def round_length(self) -> int:
        """Number of images until the labels begin anew."""
        return len(self.labels or (None,))

    def request(self) -> dict[str, Any]:
        """What all images are known from, by the names of a line."""
        return {
            "file": self.files,
            "label": self.labels,
            "class_name": self.class_names,
            "guidance_scale": self.scales,
            **self.about,
        }

    def label(self, index: int) -> int | None:
        """Class number of an image."""
        return None if self.labels is None else self.labels[index % len(self.labels)]

    def scale(self, index: int) -> float:
        """Guidance scale of an image."""
        return self.scales[index // self.round_length % len(self.scales)]

    def line(self, index: int) -> dict[str, Any]:
        """What the manifest says of an image."""
        label = self.label(index)
        has_name = label is not None and label < len(self.class_names)
        return {
            "file": file_name(index) if self.files else None,
            "index": index,
            "label": label,
            "class_name": self.class_names[label or 0] if has_name else None,
            "guidance_scale": self.scale(index),
            **self.about,
        }

    def digest(self, index: int, pixels: Pixels) -> str:
        """Return the SHA-256 that ties the pixels ``(C, H, W)`` of an image to what the manifest says of it."""
        return digest_of(self.line(index), pixels)

    def text(self, index: int, digest: str) -> str:
        """The line as it is written, with the image's digest."""
        return json.dumps({**self.line(index), DIGEST: digest})

    def digest_in(self, line: object, index: int) -> str | None:
        """Return the digest in a line that is, all else, that of image ``index``; None for any other line."""
        if not isinstance(line, dict) or not isinstance(line.get(DIGEST), str):
            return None
        rest = {name: value for name, value in line.items() if name != DIGEST}
        return line[DIGEST] if rest == json.loads(json.dumps(self.line(index))) else None


def digest_of(line: Mapping[str, Any], pixels: Pixels) -> str:
    """Return the digest of an image, from its line (with or without the digest) and its pixels ``(C, H, W)``, uint8."""
    rest = {name: value for name, value in line.items() if name != DIGEST}
    found = hashlib.sha256(json.dumps(rest).encode())
    found.update(pixels.contiguous().cpu().numpy().tobytes())
    return found.hexdigest()


FILE_NAME = re.compile(r"sample_\d{4,}\.png")


def file_name(index: int) -> str:
    """The file of an image."""
    return f"sample_{index:04d}.png"


def differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """What keeps two lines from being of the same image of the same generation, in words."""
    ours = json.loads(json.dumps(ours))  # what became a list on the way to the file is no difference
    names = [name for name in {**ours, **theirs} if name not in (*PLACES, DIGEST)]
    return [
        f"{KEYS.get(name, name)} is {_shown(theirs.get(name))} there and {_shown(ours.get(name))} here"
        for name in names
        if theirs.get(name) != ours.get(name)
    ]


def _shown(value: object) -> str:
    return printable(shown(value, longest=200))


def labels_in_turn(denoiser: Denoiser, wanted: Sequence[int | str] | None) -> tuple[int, ...] | None:
    """The labels that images take in turn: the wanted ones, all classes where none are named.

    In turn spreads them evenly, the remainder over the first ones, and lets image i have the same label whatever the
    number of images. None for an unconditional model.

    Args:
        denoiser: The model.
        wanted: Class numbers or names: a text is a name first, a number is an index.

    Warns:
        ConfigWarning: A label that is the number of one class and the name of another, with the one that is taken.

    Raises:
        ValueError: A label that is no class of the model, or labels for an unconditional model.
    """
    if denoiser.num_classes is None:
        if wanted is not None:
            raise ValueError(f"generation.sampling.labels must be null for an unconditional model, got {list(wanted)}")
        return None
    if wanted is None:
        return tuple(range(denoiser.num_classes))
    named = dict.fromkeys(wanted)  # each once: labels may be many, and so may be names
    numbers = dict(zip(named, (_class_number(denoiser, label) for label in named), strict=True))
    return tuple(numbers[label] for label in wanted)


def _class_number(denoiser: Denoiser, label: int | str) -> int:
    """The class that a label means: a text is a name first, a number is an index."""
    names, count = denoiser.class_names, denoiser.num_classes or 0
    index = label if isinstance(label, int) else int(label) if NUMBER.fullmatch(label) else -1
    by_name = names.index(str(label)) if str(label) in names else None
    by_index = index if 0 <= index < count else None
    found = by_index if isinstance(label, int) or by_name is None else by_name
    if found is None:
        raise ValueError(_unknown(label, names, count, by_name))
    if by_name is not None and by_index is not None and by_name != by_index:
        other: int | str = str(label) if isinstance(label, int) else index
        meant = by_name if isinstance(label, int) else by_index
        warnings.warn(
            f"generation.sampling.labels: {json.dumps(label)} is taken as {named_class(found, names)}, since a text is "
            f"a name and a number an index. For {named_class(meant, names)} write {_argument(other)}",
            ConfigWarning,
            stacklevel=5,
        )
    return found


def _unknown(label: int | str, names: Sequence[str], count: int, by_name: int | None) -> str:
    known = f" ({on_one_line(', '.join(names))})" if names else ""
    text = f"generation.sampling.labels must be classes of the model, 0 to {count - 1}{known}, got {label!r}"
    if by_name is None:
        return text
    return f"{text}: a number is an index. For the class of that name write {_argument(str(label))}"


def _argument(label: int | str) -> str:
    """What to type for a label."""
    return shlex.quote(setting(KEYS["label"], [label]))


def named_class(number: int, names: Sequence[str]) -> str:
    """A class in words.

    >>> named_class(1, ["rose", "tulip"])
    'class 1 ("tulip")'
    """
    return f'class {number} ("{on_one_line(names[number])}")' if number < len(names) else f"class {number}"
