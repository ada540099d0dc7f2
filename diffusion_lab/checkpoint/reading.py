"""Checkpoints as read from files: those of training runs, exports, and plain state dicts."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor

from diffusion_lab.checkpoint.content import Checkpoint, section_of
from diffusion_lab.checkpoint.explanation import check_explanation
from diffusion_lab.checkpoint.export import EXPORT_SUFFIX, read_export
from diffusion_lab.checkpoint.files import find_checkpoint
from diffusion_lab.checkpoint.foreign import WEIGHTS_KEY, denoiser_names, foreign_average, foreign_parts
from diffusion_lab.checkpoint.tensors import load_tensors, opened
from diffusion_lab.checkpoint.weights import Weights
from diffusion_lab.config.faults import ConfigWarning
from diffusion_lab.config.model_section import ModelOfCheckpoint, ModelSettings
from diffusion_lab.config.training_section import EmaSettings
from diffusion_lab.config.validate import parse_section
from diffusion_lab.denoiser import Denoiser
from diffusion_lab.devices import resolve_device
from diffusion_lab.terminal_noise import image_process_warnings

ORDER = "ImageDataModule"
"""Key of the place in the data, which the trainer calls by the class of the data module."""


def load_denoiser(
    path: str | Path,
    use_ema: bool = True,
    device: str | torch.device = "cpu",
    model: ModelSettings | Mapping[str, Any] | None = None,
    ema_decay: float | None = None,
    trust: Collection[str] = (),
) -> Denoiser:
    """Load a denoiser from a checkpoint, an export, or a run folder (its best checkpoint, else its last).

    Nothing but the file is needed: it tells the architecture, the diffusion process and the classes. No code in it
    is run.

    Args:
        path: Checkpoint file, ``.safetensors`` export, or run folder.
        use_ema: Take the averaged weights; the raw ones, with a warning, where there are none. ``weights`` of the
            denoiser tells which it has.
        device: Where to put the denoiser: ``cpu``, ``cuda``, ``cuda:1``, ``mps``, ``auto`` or a ``torch.device``.
        model: The architecture, for files of other programs, which do not tell it: the ``model`` section as a dict. Its
            ``conditioning`` may be left out where ``num_classes`` of the file or the weights tell the classes, and
            ``diffusion.prediction`` where the network predicts the noise (``epsilon``), unless the process is ``edm``.
        ema_decay: Which of the averages, by its decay; the main one where None.
        trust: Dotted paths of your own classes that may be imported because the checkpoint names them.

    Raises:
        FileNotFoundError: Nothing is there.
        ValueError: It is no checkpoint or a damaged one, holds no weights, or none of that decay, or weights of
            another architecture, or names a class that is not trusted; file, weights and ``model`` contradict each
            other in the number of classes; or this machine does not have the device.

        TypeError: ``model`` is something else.

    Warns:
        ConfigWarning: There are no averaged weights, or the noise process does not end in noise, with which sampling
            begins.
    """
    target = resolve_device(device, "device")
    given = _given_model(model)
    denoiser = read_checkpoint(find_checkpoint(path)).denoiser(use_ema, given, ema_decay, trust).to(target)
    for doubt in image_process_warnings(denoiser.schedule):
        warnings.warn(f"{path}: {doubt}", ConfigWarning, stacklevel=2)
    return denoiser


def _given_model(model: object) -> ModelSettings | None:
    if model is None or isinstance(model, ModelSettings):
        return model
    if not isinstance(model, Mapping):
        raise TypeError(f"model must be the section model of the settings, as a dict, got {type(model).__name__}")
    if isinstance(model.get("model"), Mapping):
        raise ValueError(
            "model must be the section model of the settings alone, got all of them: take settings['model']"
        )
    return parse_section(ModelOfCheckpoint, model, "model")


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint of ours, an export, or one of another program.

    That is a state dict, alone or under ``model_state_dict``, there with its averages under ``ema_state_dict`` and
    what else ``checkpoint.foreign`` names.

    Only tensors and plain containers are read; a file that asks for code to be run is refused.

    Raises:
        ValueError: The file is no checkpoint, or holds no weights.
    """
    path = Path(path)
    if path.suffix == EXPORT_SUFFIX:
        return _from_export(path)
    content = load_tensors(path)
    about = content.get("diffusion_lab")
    if isinstance(about, dict):
        return _from_own_format(path, content, about)
    return _from_another_program(path, content)


def _from_another_program(path: Path, content: dict[str, Any]) -> Checkpoint:
    found = content.get(WEIGHTS_KEY, content.get("state_dict", content))
    if not _are_weights(found):
        raise ValueError(f"{path} holds no weights: expected a state dict, or a dict with model_state_dict")
    weights, parts = denoiser_names(found), foreign_parts(content, path)
    averages, fault = foreign_average(parts.ema, weights)
    return Checkpoint(
        path=path,
        weights=weights,
        ema_weights=averages,
        model=None,
        class_names=(),
        step=None,
        config=None,
        foreign=replace(parts, ema_fault=fault),
    )


def _from_own_format(path: Path, content: dict[str, Any], about: dict[str, Any]) -> Checkpoint:
    check_explanation(about, path)
    state = content.get("state_dict")
    state = state if _are_weights(state) else {}
    weights = _under(state, "denoiser.")
    if not weights:
        raise ValueError(
            f"{path} holds no weights of a denoiser: it was not written whole, or not by a training run. "
            "Take another checkpoint"
        )
    return _explained(path, weights, _averages(state, about["config"], path), about, content.get(ORDER))


def _from_export(path: Path) -> Checkpoint:
    opened(path).close()  # refuses what is no file, or too large to be read
    weights, about = read_export(path)
    check_explanation(about, path)
    if about.get("averaged"):
        return _explained(path, {}, {about.get("ema_decay"): weights}, about)
    return _explained(path, weights, {}, about)


def _explained(
    path: Path,
    weights: Weights,
    averages: Mapping[float | None, Weights],
    about: Mapping[str, Any],
    order: object = None,
) -> Checkpoint:
    return Checkpoint(
        path=path,
        weights=weights,
        ema_weights=averages,
        model=section_of(ModelSettings, about["config"]["model"], "model", path),
        class_names=tuple(about["class_names"]),
        step=about["step"],
        config=about["config"],
        epochs_done=about.get("epochs_done"),
        about=about,
        order=order if isinstance(order, dict) else {},
    )


def _averages(state: Weights, config: dict[str, Any], path: Path) -> dict[float | None, Weights]:
    """The averaged weights that there are, by the decays that the settings tell."""
    decays: list[float | None] = [None]
    match config:
        case {"training": {"ema": {} as section}}:
            known = {name: value for name, value in section.items() if name in EmaSettings.model_fields}
            ema = section_of(EmaSettings, known, "training.ema", path)
            decays = [ema.decay, *ema.further_decays]
    prefixes = ["ema.average.", *(f"ema.further.{index}." for index in range(len(decays) - 1))]
    found = {decay: _under(state, prefix) for decay, prefix in zip(decays, prefixes, strict=True)}
    return {decay: weights for decay, weights in found.items() if weights}


def _under(state: Weights, prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def _are_weights(found: object) -> TypeGuard[dict[str, Tensor]]:
    return (
        isinstance(found, dict)
        and bool(found)
        and all(isinstance(name, str) and isinstance(value, Tensor) for name, value in found.items())
    )
