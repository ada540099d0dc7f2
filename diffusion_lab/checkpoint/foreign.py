"""Checkpoints of other programs: a state dict, alone or in a dict with other saved values.

The keys that are read are ``model_state_dict`` (or ``state_dict``), ``ema_state_dict``, ``num_classes``, ``epoch`` and
``optimizer_state_dict``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from diffusion_lab.checkpoint.weights import Weights
from diffusion_lab.config.model_section import ModelSettings
from diffusion_lab.console.command_line import program_name
from diffusion_lab.console.terminal import on_one_line
from diffusion_lab.ema.formats import bare_names, find_average
from diffusion_lab.faults import shown

LABELS = "network.embed_label.weight"
"""Label embedding of the project's networks: one row per class, and one for "no label"."""

WEIGHTS_KEY, EMA_KEY, OPTIMIZER_KEY = "model_state_dict", "ema_state_dict", "optimizer_state_dict"

READ_KEYS = (WEIGHTS_KEY, "state_dict", EMA_KEY, OPTIMIZER_KEY, "num_classes", "epoch")
"""The keys that are read."""


MAX_CLASSES = 10**9

MAX_NAMED = 20
"""Maximum number of unread keys that are named."""


class Unknown(Enum):
    """Sentinel for an unknown number of classes."""

    UNKNOWN = "unknown"


UNKNOWN = Unknown.UNKNOWN

Classes = int | None | Unknown
"""Number of classes, None for an unconditional model."""


@dataclass(frozen=True)
class ForeignParts:
    """Values besides the weights in a file of another program; ``epoch``, ``optimizer`` and ``ema`` are unchecked.

    ``ema_fault`` says why there are no averaged weights although there should be, as a predicate to follow the path.
    ``unread`` are the names of further keys. ``saved_in_training`` is false for a bare state dict.
    """

    num_classes: Classes = UNKNOWN
    ema: object = None
    ema_fault: str | None = None
    epoch: object = None
    optimizer: object = None
    unread: tuple[str, ...] = ()
    saved_in_training: bool = False


def rename_for_denoiser(weights: Weights) -> dict[str, Tensor]:
    """Return weights by their names in a denoiser, without the prefixes of wrappers."""
    return {f"network.{name}": tensor for name, tensor in bare_names(weights).items()}


def read_foreign_parts(content: Mapping[str, Any], path: Path) -> ForeignParts:
    """Return the values of a file besides its weights.

    Raises:
        ValueError: ``num_classes`` is not a valid number of classes.
    """
    if WEIGHTS_KEY not in content and "state_dict" not in content:
        return ForeignParts()
    classes = content.get("num_classes", UNKNOWN)
    if classes is not UNKNOWN and classes is not None and (type(classes) is not int or not 1 <= classes <= MAX_CLASSES):
        raise ValueError(
            f"{path} has num_classes {shown(classes)}, which must be an integer from 1 to {MAX_CLASSES:,}, or None"
        )
    return ForeignParts(
        num_classes=classes,
        ema=content.get(EMA_KEY),
        epoch=content.get("epoch"),
        optimizer=content.get(OPTIMIZER_KEY),
        unread=tuple(on_one_line(name)[:40] for name in content if name not in READ_KEYS)[:MAX_NAMED],
        saved_in_training=WEIGHTS_KEY in content,
    )


def read_foreign_average(state: object, weights: Weights) -> tuple[dict[float | None, Weights], str | None]:
    """Return the averaged weights by their decay, and why the state of an EMA cannot be read; neither if it is empty.

    Args:
        state: Value of ``ema_state_dict``.
        weights: The raw weights in the same file, by the names of a denoiser.
    """
    if state is None or (isinstance(state, Mapping) and not state):
        return {}, None
    try:
        average = find_average(state, bare_names(weights))
    except ValueError as error:
        return {}, f"its {EMA_KEY} {error}"
    averaged = {f"network.{name}": tensor for name, tensor in average.weights.items()}
    unknown = [name for name in averaged if name not in weights]
    reshaped = [name for name, tensor in averaged.items() if name in weights and tensor.shape != weights[name].shape]
    if unknown or reshaped:
        fault = f"has {unknown[0]}, which they lack" if unknown else f"has {reshaped[0]} in another shape"
        return {}, f"its {EMA_KEY} does not belong to the weights next to it: it {fault}"
    return {average.decay: averaged}, None


def fill_average(average: Weights, weights: Weights) -> Weights:
    """Return an average completed with raw weights; only buffers may be missing (``check_complete_average``)."""
    return {**weights, **average}


def check_complete_average(average: Weights, denoiser: nn.Module, path: Path) -> None:
    """Raise ValueError if parameters of a denoiser have no average."""
    missing = [name for name, _ in denoiser.named_parameters() if name not in average]
    if missing:
        raise ValueError(
            f"{path} cannot be sampled with averaged weights: its {EMA_KEY} lacks {missing[0]}{raw_weights_advice()}"
        )


def raw_weights_advice() -> str:
    """Return the end of a message about missing averages."""
    return f". For the raw weights: use_ema=False in Python, use_ema=false for {program_name('sample')}"


def with_classes(model: ModelSettings, num_classes: Classes, weights: Weights, path: Path) -> ModelSettings:
    """Return model settings with the number of classes of a file, or else of its weights.

    ``type: class`` with a number, or a number alone, is compared; otherwise it is filled in.

    Args:
        model: The user's settings.
        num_classes: ``num_classes`` in the file.
        weights: Weights by the names of a denoiser.
        path: The file, for messages.

    Raises:
        ValueError: File, weights and settings contradict each other.
    """
    counted = _classes_of(weights) if "." not in model.architecture.type else UNKNOWN
    if UNKNOWN not in (num_classes, counted) and num_classes != counted:
        raise ValueError(
            f"{path} contradicts itself: its num_classes is {num_classes}, and its weights are those of "
            f"{_model_of(counted)}"
        )
    known = counted if num_classes is UNKNOWN else num_classes
    if known is UNKNOWN:
        return model
    where = f"the weights in {path} are" if num_classes is UNKNOWN else f"by its num_classes, {num_classes}, {path} is"
    conditioning = model.conditioning
    typed = conditioning.num_classes if isinstance(conditioning.num_classes, int) else None
    if known is None and conditioning.type == "class":
        raise ValueError(
            f"model.conditioning.type must be null (conditioning=none): {where} of {_model_of(None)}, got 'class'"
        )
    if known is not None and typed not in (None, known):
        raise ValueError(
            f"model.conditioning.num_classes must be {known}, or left out: {where} of {_model_of(known)}, got {typed}"
        )
    classes = {"type": None if known is None else "class", "num_classes": known}
    return model.model_copy(update={"conditioning": conditioning.model_copy(update=classes)})


DEFAULT_PREDICTION = "epsilon"
"""Prediction of a network if neither its checkpoint nor the user specifies it: the default of the V2 format."""


def with_prediction(model: ModelSettings, path: Path) -> ModelSettings:
    """Return the settings with the default prediction if none is set.

    Raises:
        ValueError: None is set, and the default is not intended for the noise process.
    """
    diffusion = model.diffusion
    if diffusion.is_prediction_set:
        return model
    if diffusion.type in ("edm", "flow"):
        raise ValueError(
            f"{path} does not say what its network predicts, which must be given with model.diffusion.type "
            f"{diffusion.type}: model.diffusion.prediction={diffusion.type}, or what else it was trained for"
        )
    changed = diffusion.model_copy(update={"prediction": DEFAULT_PREDICTION})
    return model.model_copy(update={"diffusion": changed})


def _classes_of(weights: Weights) -> int | None:
    labels = weights.get(LABELS)
    return None if labels is None or labels.ndim != 2 else len(labels) - 1


def _model_of(classes: Classes) -> str:
    if not isinstance(classes, int):
        return "an unconditional model"
    return f"a model of {classes} class{'es' if classes != 1 else ''}"
