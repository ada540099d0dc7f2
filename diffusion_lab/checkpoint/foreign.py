"""Checkpoints that other programs wrote: a state dict, alone or in a dict with what else they saved.

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
from diffusion_lab.config.faults import shown
from diffusion_lab.config.model_section import ModelSettings
from diffusion_lab.ema_formats import bare_names, find_average
from diffusion_lab.terminal import on_one_line

LABELS = "network.embed_label.weight"
"""Of the project's networks: a row for each class, and one for "no label"."""

WEIGHTS_KEY, EMA_KEY, OPTIMIZER_KEY = "model_state_dict", "ema_state_dict", "optimizer_state_dict"

READ = (WEIGHTS_KEY, "state_dict", EMA_KEY, OPTIMIZER_KEY, "num_classes", "epoch")
"""The keys that are read."""


MOST_CLASSES = 10**9

MOST_NAMED = 20
"""Of the keys that are not read."""


class Missing(Enum):
    """Stands for a number of classes that nothing tells."""

    UNTOLD = "untold"


UNTOLD = Missing.UNTOLD

Classes = int | None | Missing
"""The number of classes, None of an unconditional model."""


@dataclass(frozen=True)
class ForeignParts:
    """What stands in the file of another program beside the weights; ``epoch``, ``optimizer`` and ``ema`` unchecked.

    ``ema_fault`` says why there are no averaged weights, in words that go on from the path, where there should be
    some. ``unread`` are the names of what else is there. ``saved_in_training`` is false of a state dict alone.
    """

    num_classes: Classes = UNTOLD
    ema: object = None
    ema_fault: str | None = None
    epoch: object = None
    optimizer: object = None
    unread: tuple[str, ...] = ()
    saved_in_training: bool = False


def denoiser_names(weights: Weights) -> dict[str, Tensor]:
    """Weights by the names that they have in a denoiser, whatever it was wrapped in."""
    return {f"network.{name}": tensor for name, tensor in bare_names(weights).items()}


def foreign_parts(content: Mapping[str, Any], path: Path) -> ForeignParts:
    """What a file tells beside its weights and their averages.

    Raises:
        ValueError: ``num_classes`` is no number of classes.
    """
    if WEIGHTS_KEY not in content and "state_dict" not in content:
        return ForeignParts()
    classes = content.get("num_classes", UNTOLD)
    if classes is not UNTOLD and classes is not None and (type(classes) is not int or not 1 <= classes <= MOST_CLASSES):
        raise ValueError(
            f"{path} has num_classes {shown(classes)}, which must be an integer from 1 to {MOST_CLASSES:,}, or None"
        )
    return ForeignParts(
        num_classes=classes,
        ema=content.get(EMA_KEY),
        epoch=content.get("epoch"),
        optimizer=content.get(OPTIMIZER_KEY),
        unread=tuple(on_one_line(name)[:40] for name in content if name not in READ)[:MOST_NAMED],
        saved_in_training=WEIGHTS_KEY in content,
    )


def foreign_average(state: object, weights: Weights) -> tuple[dict[float | None, Weights], str | None]:
    """The averaged weights by their decay, or what keeps the state of an EMA from being read; neither if it is empty.

    Args:
        state: What stands under ``ema_state_dict``.
        weights: The weights beside it, by the names of a denoiser.
    """
    if state is None or (isinstance(state, Mapping) and not state):
        return {}, None
    try:
        found = find_average(state, bare_names(weights))
    except ValueError as error:
        return {}, f"its {EMA_KEY} {error}"
    averaged = {f"network.{name}": tensor for name, tensor in found.weights.items()}
    unknown = [name for name in averaged if name not in weights]
    other = [name for name, tensor in averaged.items() if name in weights and tensor.shape != weights[name].shape]
    if unknown or other:
        fault = f"has {unknown[0]}, which they have not" if unknown else f"has {other[0]} in another shape"
        return {}, f"its {EMA_KEY} does not belong to the weights beside it: it {fault}"
    return {found.decay: averaged}, None


def fill_average(average: Weights, weights: Weights) -> Weights:
    """An average with what it lacks from the weights beside it, which may be buffers alone (``check_complete_average``)."""
    return {**weights, **average}


def check_complete_average(average: Weights, denoiser: nn.Module, path: Path) -> None:
    """Raise ValueError where parameters of a denoiser have no average."""
    lacking = [name for name, _ in denoiser.named_parameters() if name not in average]
    if lacking:
        raise ValueError(f"{path} cannot be sampled with averaged weights: its {EMA_KEY} lacks {lacking[0]}{RAW}")


RAW = ". For the weights as trained: use_ema=False in Python, use_ema=false for sample.py"


def with_classes(model: ModelSettings, told: Classes, weights: Weights, path: Path) -> ModelSettings:
    """The settings of a model with the number of classes that a file tells, else its weights do.

    ``type: class`` with a number, or a number alone, is compared; anything else is filled in.

    Args:
        model: The user's own settings.
        told: ``num_classes`` in the file.
        weights: By the names of a denoiser.
        path: The file, to be named.

    Raises:
        ValueError: File, weights and settings contradict each other.
    """
    counted = _classes_of(weights) if "." not in model.architecture.type else UNTOLD
    if UNTOLD not in (told, counted) and told != counted:
        raise ValueError(
            f"{path} contradicts itself: its num_classes is {told}, and its weights are those of {_model_of(counted)}"
        )
    known = counted if told is UNTOLD else told
    if known is UNTOLD:
        return model
    where = f"the weights in {path} are" if told is UNTOLD else f"by its num_classes, {told}, {path} is"
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
    found = {"type": None if known is None else "class", "num_classes": known}
    return model.model_copy(update={"conditioning": conditioning.model_copy(update=found)})


DEFAULT_PREDICTION = "epsilon"
"""What a network predicts where neither its checkpoint nor its user says it: the default of the V2 format."""


def with_prediction(model: ModelSettings, path: Path) -> ModelSettings:
    """The settings with the default prediction where nobody has asked for one.

    Raises:
        ValueError: Nobody has, and the noise process is one that the default is not meant for.
    """
    diffusion = model.diffusion
    if diffusion.prediction_is_asked_for:
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
