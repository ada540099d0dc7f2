"""Modules without a training run: built from settings, or loaded from a checkpoint."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from diffusion_lab.checkpoint import FORMAT, Checkpoint, find_checkpoint, load_tensors, read_checkpoint
from diffusion_lab.checkpoint.content import parse_saved_section
from diffusion_lab.config.defaults import get_default_config
from diffusion_lab.config.model_section import ModelSettings
from diffusion_lab.config.schema import TrainConfig, root_of, suggest_key
from diffusion_lab.config.training_section import TrainingSettings
from diffusion_lab.config.validate import parse_section
from diffusion_lab.console.redaction import holds_redacted, redacted
from diffusion_lab.create import create_denoiser
from diffusion_lab.data.datamodule import ImageDataModule
from diffusion_lab.denoiser import Denoiser
from diffusion_lab.faults import ConfigError, ConfigWarning, unknown_key
from diffusion_lab.runtime.devices import resolve_device
from diffusion_lab.runtime.environment import environment
from diffusion_lab.sampling.terminal_noise import image_process_warnings, terminal_noise_warnings
from diffusion_lab.training.create import ModuleT, ScheduleSpan, build_module, prepare_denoiser

if TYPE_CHECKING:
    from diffusion_lab.training.module import DiffusionModule

RUN_KEYS = ("run_id", "wandb_id", "step", "epochs_done", "stopped", "threads")
"""Metadata of a checkpoint about the run that wrote it rather than the module."""

CLASSES = {
    ("model", "architecture"): "network",
    ("model", "diffusion"): "noise process",
    ("training", "optimizer"): "optimizer",
    ("training", "scheduler"): "learning-rate schedule",
    ("training", "loss", "penalty"): "penalty",
    ("training", "loss", "weighting"): "loss weighting",
    ("training", "loss", "times"): "distribution of times",
}
"""Sections whose ``type`` may name a class by its dotted path, with a description of the class."""


def module_from_settings(cls: type[ModuleT], settings: Mapping[str, Any], device: str | torch.device) -> ModuleT:
    """Build what ``DiffusionModule.from_settings`` returns."""
    root_of(settings)  # raises if it is not a mapping
    target = resolve_device(device, "device")
    faults = [
        unknown_key(key, value, partial(suggest_key, root=TrainConfig))
        for key, value in settings.items()
        if key not in TrainConfig.model_fields
    ]
    if faults:
        raise ConfigError(faults)
    tree = get_default_config() | dict(settings)
    model = parse_section(ModelSettings, tree["model"], "model")
    training = parse_section(TrainingSettings, tree["training"], "training")
    metadata = {
        "format": FORMAT,
        "config": redacted(
            tree | {"model": model.model_dump(mode="json"), "training": training.model_dump(mode="json")}
        ),
        "class_names": [],
        "environment": environment(),
    }
    denoiser = create_denoiser(model).to(target)
    for message in terminal_noise_warnings(denoiser.schedule, model.diffusion):
        warnings.warn(message, ConfigWarning, stacklevel=3)
    prepare_denoiser(denoiser, training.performance, target)
    return _module(cls, training, denoiser, model.conditioning.class_dropout_prob, metadata)


def module_from_checkpoint(
    cls: type[ModuleT],
    path: str | Path,
    device: str | torch.device,
    model: ModelSettings | None,
    trust: Collection[str],
) -> ModuleT:
    """Build what ``DiffusionModule.load_from_checkpoint`` returns."""
    target = resolve_device(device, "map_location")
    file = find_checkpoint(path)
    checkpoint = read_checkpoint(file)
    config = checkpoint.config or {}
    training = _training_settings(checkpoint)
    _refuse_untrusted(config, file, trust)
    denoiser = checkpoint.denoiser(use_ema=False, model=model, trust=trust).train().to(target)
    for message in image_process_warnings(denoiser.schedule):
        warnings.warn(f"{file}: {message}", ConfigWarning, stacklevel=3)
    performance = training.performance
    if performance.requested_precision == "fp16" and target.type == "cpu":  # no float16 gradients on a CPU
        performance = performance.model_copy(update={"precision": 32})
    training = training.model_copy(update={"performance": performance.model_copy(update={"compile_model": False})})
    prepare_denoiser(denoiser, training.performance, target)
    metadata = {name: value for name, value in checkpoint.metadata.items() if name not in RUN_KEYS}
    dropout = denoiser.label_dropout or 0.0
    module = _module(cls, training, denoiser, dropout, metadata)
    try:
        module.load_state_dict(load_tensors(file)["state_dict"])
    except RuntimeError as error:
        raise ValueError(
            f"{file} does not hold the averages that its settings ask for: the settings are not those of the run that "
            "wrote it. load_denoiser(…, use_ema=False) loads its raw weights"
        ) from error
    return module


def _training_settings(checkpoint: Checkpoint) -> TrainingSettings:
    """Return the ``training`` section of a checkpoint, without what only the run that wrote it used."""
    tree = (checkpoint.config or {}).get("training")
    if not isinstance(tree, Mapping) or not checkpoint.weights:
        raise ValueError(
            f"{checkpoint.path} holds weights without the settings and the state of a training run: use "
            "load_denoiser(…) to sample from it, or a checkpoint of a training run"
        )
    if holds_redacted(tree):
        raise ValueError(
            f"{checkpoint.path} was saved without a secret that its training section needs: use load_denoiser(…) to "
            "sample from it"
        )
    known = {name: value for name, value in tree.items() if name in TrainingSettings.model_fields}
    return parse_saved_section(
        TrainingSettings, known | {"resume": get_default_config()["training"]["resume"]}, "training", checkpoint.path
    )


def _refuse_untrusted(config: Mapping[str, Any], path: Path, trust: Collection[str]) -> None:
    """Raise ValueError if a checkpoint names classes that the user does not trust: importing a class runs code."""
    untrusted = {kind: name for kind, name in _class_paths(config) if name not in trust}
    if untrusted:
        text = ", ".join(f"the class {name!r} for its {kind}" for kind, name in untrusted.items())
        raise ValueError(
            f"{path} names {text}, which is imported only if you allow it: if you trust it, "
            f"load_from_checkpoint(…, trust={sorted(set(untrusted.values()))})"
        )


def _class_paths(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for keys, kind in CLASSES.items():
        section: Any = config
        for key in keys:
            section = section.get(key) if isinstance(section, Mapping) else None
        name = section.get("type") if isinstance(section, Mapping) else None
        if isinstance(name, str) and "." in name:
            yield kind, name


def _module(
    cls: type[ModuleT], training: TrainingSettings, denoiser: Denoiser, label_dropout: float, metadata: dict[str, Any]
) -> ModuleT:
    def span() -> ScheduleSpan:
        return ScheduleSpan(training.epochs, _steps(module, training))

    module = build_module(training, denoiser, label_dropout, span, metadata, cls)
    return module


def _steps(module: DiffusionModule, training: TrainingSettings) -> int:
    """Return the optimizer steps of all epochs from the trainer; 0 if the schedule is not stepped once per step."""
    kind = training.scheduler.type
    if kind is None or not training.scheduler.passed_to(training.scheduler.class_of(kind)):
        return 0
    trainer = module.trainer
    data = getattr(trainer, "datamodule", None)
    if isinstance(data, ImageDataModule):
        steps = -(-data.steps_per_epoch // trainer.accumulate_grad_batches) * training.epochs
        return min(steps, training.max_steps or steps)
    return int(trainer.estimated_stepping_batches)
