"""Whether a run can go on from a checkpoint, found out before anything is written, and from which place."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from diffusion_lab.checkpoint import Checkpoint, load_weights
from diffusion_lab.config.schema import TrainConfig
from diffusion_lab.data.datamodule import ImageDataModule
from diffusion_lab.denoiser import Denoiser
from diffusion_lab.training.origin import Origin, Place

FREE_TO_CHANGE = ("model.architecture.dropout", "model.conditioning.class_dropout_prob")
"""Keys of the model that only training reads."""


@dataclass(frozen=True)
class Remainder:
    """What is left to do of a resumed run, in batches and steps of its own size.

    Args:
        batches_done: Batches of the unfinished epoch that are done, 0 at the beginning of one.
        epochs: Epochs left, an unfinished one among them.
        steps: Optimizer steps left.
        note: What the user should know about the place, where it is measured otherwise than before.
    """

    batches_done: int
    epochs: int
    steps: int
    note: str | None


def refuse_mismatch(checkpoint: Checkpoint, config: TrainConfig, denoiser: Denoiser) -> None:
    """Check that training can go on from a checkpoint.

    Raises:
        ValueError: It holds weights of another architecture, or the settings contradict it, each key named.
    """
    faults = list(_other_keys(checkpoint, config))
    try:
        load_weights(denoiser, checkpoint.weights, checkpoint.path)  # refuses those of another architecture
    except ValueError as error:
        faults.append(str(error))
    faults += _mismatches(checkpoint, config)
    if faults:
        raise ValueError(f"cannot resume from {checkpoint.path}:\n  " + "\n  ".join(faults))


def remainder(origin: Origin, config: TrainConfig, data: ImageDataModule) -> Remainder:
    """What is left to do from a checkpoint on.

    Raises:
        ValueError: The checkpoint is from the middle of an epoch, at a place that is not the beginning of an optimizer
            step of the present size.
    """
    accumulated = config.training.accumulate_batches
    steps_per_epoch = -(-data.steps_per_epoch // accumulated)
    epochs = config.training.epochs - (origin.epochs_done or 0)
    place = origin.place
    if place is None or not place.samples_seen:
        return Remainder(0, epochs, steps_per_epoch * epochs, None)
    done, beyond = divmod(place.samples_seen, data.step_size * accumulated)
    batches = done * accumulated
    if beyond or batches >= data.steps_per_epoch:
        raise ValueError(
            f"data.loading.batch_size × training.accumulate_batches must divide the {place.samples_seen} images that "
            f"epoch {place.epoch + 1} has seen in {origin.path}, and leave some of it, got {data.step_size} × "
            f"{accumulated} (a checkpoint from the end of an epoch resumes with any)"
        )
    return Remainder(batches, epochs, steps_per_epoch * epochs - done, _note(place, data))


def _note(place: Place, data: ImageDataModule) -> str | None:
    if place.step_size == data.step_size:
        return None
    return (
        f"data.loading.batch_size × devices was {place.step_size} and is {data.step_size}: "
        f"epoch {place.epoch + 1} goes on with its image {place.samples_seen + 1}"
    )


def same_results(config: TrainConfig, origin: Origin) -> bool:
    """Whether the steps after the checkpoint come out as they did in the run that wrote it."""
    now = config.model_dump(mode="json")
    return all(_relevant(now[name]) == _relevant(origin.config.get(name)) for name in ("model", "data", "training"))


def _relevant(section: Any) -> Any:
    """A section without what decides only how long a run is, and where it goes on from."""
    unread = ("epochs", "resume", "num_workers", "pin_memory")
    if not isinstance(section, Mapping):
        return section
    return {name: _relevant(value) for name, value in section.items() if name not in unread}


def _other_keys(checkpoint: Checkpoint, config: TrainConfig) -> Iterator[str]:
    """The keys of the model that are not those of the checkpoint."""
    if checkpoint.model is None:
        return
    then, now = (_flat(model.model_dump(mode="json"), "model") for model in (checkpoint.model, config.model))
    for key in sorted(then.keys() | now.keys()):
        if key not in FREE_TO_CHANGE and then.get(key) != now.get(key):
            yield f"{key} must be that of the checkpoint, {_said(then.get(key))}, got {_said(now.get(key))}"


def _flat(tree: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        key = f"{prefix}.{name}"
        flat.update(_flat(value, key) if isinstance(value, Mapping) else {key: value})
    return flat


def _said(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _mismatches(checkpoint: Checkpoint, config: TrainConfig) -> Iterator[str]:
    if checkpoint.config is None or checkpoint.model is None or checkpoint.epochs_done is None:
        yield "training.resume.checkpoint must be a file written by train.py, not weights alone"
        return
    now, then = config.training, checkpoint.config["training"]
    seed = checkpoint.config["compute"]["seed"]
    if config.compute.seed not in (None, seed):
        yield f"compute.seed must be null or that of the checkpoint, {seed}, got {config.compute.seed}"
    if now.ema.enabled != bool(checkpoint.ema_weights):
        yield f"training.ema.enabled must be {str(not now.ema.enabled).lower()}, as in the checkpoint"
    elif now.ema.enabled and list(now.ema.further_decays) != checkpoint.decays[1:]:
        kept = checkpoint.decays[1:]
        yield f"training.ema.further_decays must be {kept}, as in the checkpoint, got {list(now.ema.further_decays)}"
    resets = {"optimizer": now.resume.reset_optimizer, "scheduler": now.resume.reset_scheduler}
    if not then["checkpointing"]["save_optimizer"] and not all(resets.values()):
        yield (
            "training.resume.checkpoint holds no optimizer state (training.checkpointing.save_optimizer=false): "
            "set training.resume.reset_optimizer=true and training.resume.reset_scheduler=true"
        )
    for name, type_ in (("optimizer", now.optimizer.type), ("scheduler", now.scheduler.type)):
        if then[name]["type"] not in (type_, None) and not resets[name]:
            yield (
                f"training.{name}.type must be {then[name]['type']!r}, as in the checkpoint, got {type_!r} "
                f"(or set training.resume.reset_{name}=true)"
            )
