"""Reading checkpoints of training runs, exports, and files of other programs."""

from __future__ import annotations

import os
import reprlib
import warnings
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor

from diffusion_lab.arguments import arguments_named, check_flag, is_number
from diffusion_lab.checkpoint.content import Checkpoint, parse_saved_section
from diffusion_lab.checkpoint.export import EXPORT_SUFFIX, read_export
from diffusion_lab.checkpoint.files import find_checkpoint
from diffusion_lab.checkpoint.foreign import WEIGHTS_KEY, read_foreign_average, read_foreign_parts, rename_for_denoiser
from diffusion_lab.checkpoint.metadata import check_metadata
from diffusion_lab.checkpoint.tensors import load_tensors, open_checkpoint
from diffusion_lab.checkpoint.weights import Weights
from diffusion_lab.config.model_section import ModelOfCheckpoint, ModelSettings
from diffusion_lab.config.training_section import EmaSettings
from diffusion_lab.config.validate import parse_section
from diffusion_lab.denoiser import Denoiser
from diffusion_lab.faults import ConfigWarning
from diffusion_lab.runtime.devices import resolve_device
from diffusion_lab.sampling.terminal_noise import image_process_warnings

DATA_POSITION = "ImageDataModule"
"""Key of the position in the data, for which the trainer uses the class name of the data module."""

ARGUMENTS = {
    "generation.sampling.ema_decay": "ema_decay",
    "generation.sampling.use_ema": "use_ema",
    "generation.sampling.use_ema=true, no --raw": "use_ema=True",
}
"""Arguments of ``load_denoiser`` by the keys of ``sample.py``."""


def load_denoiser(
    path: str | Path,
    use_ema: bool = True,
    device: str | torch.device = "cpu",
    model: ModelSettings | Mapping[str, Any] | None = None,
    ema_decay: float | None = None,
    trust: Collection[str] = (),
) -> Denoiser:
    """Load a denoiser from a checkpoint, an export, or a run folder (its best checkpoint, else its last).

    Only the file is needed: it contains the architecture, the diffusion process and the classes. No code in it is run.

    Args:
        path: Checkpoint file, ``.safetensors`` export, or run folder.
        use_ema: Use the averaged weights; the raw ones, with a warning, if there are none. ``weights`` of the denoiser
            is ``"ema"`` or ``"raw"``.
        device: Device of the denoiser: ``cpu``, ``cuda``, ``cuda:1``, ``mps``, ``auto`` or a ``torch.device``.
        model: The architecture, for files of other programs, which do not contain it: the ``model`` section as a dict.
            Its ``conditioning`` may be omitted if ``num_classes`` of the file or the weights determine the classes, and
            ``diffusion.prediction`` if the network predicts the noise (``epsilon``), unless the process is ``edm``.
        ema_decay: Decay of the average to use; the main one if None.
        trust: Dotted paths of custom classes that may be imported because the checkpoint names them.

    Raises:
        FileNotFoundError: There is no checkpoint.
        ValueError: The file is not a checkpoint or is damaged, holds no weights, or none of that decay, or weights of
            another architecture, or names a class that is not trusted; file, weights and ``model`` contradict each
            other in the number of classes; or this machine does not have the device.
        TypeError: ``path`` is not a path, or ``model`` is neither a dict nor settings.

    Warns:
        ConfigWarning: There are no averaged weights, or the noise process does not end in pure noise, where sampling
            begins.
    """
    target = resolve_device(device, "device")
    check_flag("use_ema", use_ema)
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path must be a path, as a string or pathlib.Path, got {reprlib.repr(path)}")
    if ema_decay is not None and not is_number(ema_decay):
        raise ValueError(f"ema_decay must be the decay of an average, a number, or None, got {reprlib.repr(ema_decay)}")
    if isinstance(trust, str):
        raise ValueError(f"trust must be a list of dotted paths, got the string {trust!r}: [{trust!r}]")
    settings = _parse_model(model)
    checkpoint = read_checkpoint(find_checkpoint(path))
    with arguments_named(ARGUMENTS):
        denoiser = checkpoint.denoiser(use_ema, settings, ema_decay, trust, copy=False).to(target)
    for warning in image_process_warnings(denoiser.schedule):
        warnings.warn(f"{path}: {warning}", ConfigWarning, stacklevel=2)
    return denoiser


def _parse_model(model: object) -> ModelSettings | None:
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
    """Read a checkpoint of a training run, an export, or a file of another program.

    The latter is a state dict, alone or under ``model_state_dict``, where averages under ``ema_state_dict`` and the
    other keys in ``checkpoint.foreign`` are read as well.

    Only tensors and plain containers are read; a file that would run code is refused.

    Raises:
        ValueError: The file is not a checkpoint, or holds no weights.
    """
    path = Path(path)
    if path.suffix == EXPORT_SUFFIX:
        return _from_export(path)
    content = load_tensors(path)
    metadata = content.get("diffusion_lab")
    if isinstance(metadata, dict):
        return _from_training_run(path, content, metadata)
    return _from_another_program(path, content)


def _from_another_program(path: Path, content: dict[str, Any]) -> Checkpoint:
    raw = content.get(WEIGHTS_KEY, content.get("state_dict", content))
    if not _are_weights(raw):
        raise ValueError(f"{path} holds no weights: expected a state dict, or a dict with model_state_dict")
    weights, parts = rename_for_denoiser(raw), read_foreign_parts(content, path)
    averages, fault = read_foreign_average(parts.ema, weights)
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


def _from_training_run(path: Path, content: dict[str, Any], metadata: dict[str, Any]) -> Checkpoint:
    check_metadata(metadata, path)
    state = content.get("state_dict")
    state = state if _are_weights(state) else {}
    weights = _with_prefix(state, "denoiser.")
    if not weights:
        raise ValueError(
            f"{path} holds no weights of a denoiser: it is incomplete, or was not written by a training run. "
            "Take another checkpoint"
        )
    return _create_checkpoint(
        path, weights, _averages(state, metadata["config"], path), metadata, content.get(DATA_POSITION)
    )


def _from_export(path: Path) -> Checkpoint:
    open_checkpoint(path).close()  # refuses anything that is not a file, or too large to be read
    weights, metadata = read_export(path)
    check_metadata(metadata, path)
    if metadata.get("averaged"):
        return _create_checkpoint(path, {}, {metadata.get("ema_decay"): weights}, metadata)
    return _create_checkpoint(path, weights, {}, metadata)


def _create_checkpoint(
    path: Path,
    weights: Weights,
    averages: Mapping[float | None, Weights],
    metadata: Mapping[str, Any],
    data_position: object = None,
) -> Checkpoint:
    return Checkpoint(
        path=path,
        weights=weights,
        ema_weights=averages,
        model=parse_saved_section(ModelSettings, metadata["config"]["model"], "model", path),
        class_names=tuple(metadata["class_names"]),
        step=metadata["step"],
        config=metadata["config"],
        epochs_done=metadata.get("epochs_done"),
        metadata=metadata,
        data_position=data_position if isinstance(data_position, dict) else {},
    )


def _averages(state: Weights, config: dict[str, Any], path: Path) -> dict[float | None, Weights]:
    """Return the averaged weights by their decays, which are in the settings."""
    decays: list[float | None] = [None]
    match config:
        case {"training": {"ema": {} as section}}:
            known = {name: value for name, value in section.items() if name in EmaSettings.model_fields}
            ema = parse_saved_section(EmaSettings, known, "training.ema", path)
            decays = [ema.decay, *ema.further_decays]
    prefixes = ["ema.average.", *(f"ema.further.{index}." for index in range(len(decays) - 1))]
    averages = {decay: _with_prefix(state, prefix) for decay, prefix in zip(decays, prefixes, strict=True)}
    return {decay: weights for decay, weights in averages.items() if weights}


def _with_prefix(state: Weights, prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def _are_weights(value: object) -> TypeGuard[dict[str, Tensor]]:
    return (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in value.items())
    )
