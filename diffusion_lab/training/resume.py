"""Whether a run can go on from a checkpoint, found out before anything is written."""

from __future__ import annotations

from collections.abc import Iterator

from diffusion_lab.checkpoint import Checkpoint, load_weights
from diffusion_lab.config.schema import TrainConfig
from diffusion_lab.denoiser import Denoiser


def refuse_mismatch(checkpoint: Checkpoint, config: TrainConfig, denoiser: Denoiser) -> None:
    """Check that training can go on from a checkpoint.

    Raises:
        ValueError: It holds weights of another architecture, or the settings contradict it, each key named.
    """
    load_weights(denoiser, checkpoint.weights, checkpoint.path)  # refuses those of another architecture
    faults = list(_mismatches(checkpoint, config))
    if faults:
        raise ValueError(f"cannot resume from {checkpoint.path}:\n  " + "\n  ".join(faults))


def _mismatches(checkpoint: Checkpoint, config: TrainConfig) -> Iterator[str]:
    if checkpoint.config is None or checkpoint.model is None or checkpoint.epochs_done is None:
        yield "training.resume.checkpoint must be a file written by train.py, not weights alone"
        return
    now, then = config.training, checkpoint.config["training"]
    seed = checkpoint.config["compute"]["seed"]
    if config.compute.seed not in (None, seed):
        yield f"compute.seed must be null or that of the checkpoint, {seed}, got {config.compute.seed}"
    if checkpoint.model.diffusion != config.model.diffusion:
        yield f"model.diffusion must be that of the checkpoint, {checkpoint.model.diffusion.model_dump()}"
    if now.ema.enabled != bool(checkpoint.ema_weights):
        yield f"training.ema.enabled must be {str(not now.ema.enabled).lower()}, as in the checkpoint"
    elif now.ema.enabled and list(now.ema.further_decays) != checkpoint.decays[1:]:
        kept = checkpoint.decays[1:]
        yield f"training.ema.further_decays must be {kept}, as in the checkpoint, got {list(now.ema.further_decays)}"
    if now.epochs <= checkpoint.epochs_done:
        yield f"training.epochs must exceed the {checkpoint.epochs_done} that are done, got {now.epochs}"
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
