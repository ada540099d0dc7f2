"""Generation from settings: images from a checkpoint alone, on disk as they are made."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Collection, Iterator
from pathlib import Path

import torch

from diffusion_lab.checkpoint import Checkpoint, file_hash, find_checkpoint, read_checkpoint
from diffusion_lab.checkpoint.export import name_for_others
from diffusion_lab.checkpoint.files import is_sweep
from diffusion_lab.config.doubts import (
    doubts_about_dropout,
    doubts_about_guidance,
    doubts_about_rounds,
    doubts_about_shares,
)
from diffusion_lab.config.faults import ConfigWarning
from diffusion_lab.config.schema import GenerateConfig, SamplingSettings
from diffusion_lab.config.validate import refuse_to_start
from diffusion_lab.denoiser import Denoiser
from diffusion_lab.devices import computing_with, resolve_device
from diffusion_lab.generation.completion import Completion, Generation
from diffusion_lab.generation.folder import Opened, opened
from diffusion_lab.generation.order import Order, labels_in_turn, named_class
from diffusion_lab.networks.cost import count_forward_flops
from diffusion_lab.precision import resolve_precision
from diffusion_lab.process_end import doubts_about_images
from diffusion_lab.redaction import redacted, without_folders
from diffusion_lab.sampling import DiffusionSampler
from diffusion_lab.start_lines import aligned, compute_in_words, images_in_words, process_in_words
from diffusion_lab.terminal import printable
from diffusion_lab.threads import choose_threads
from diffusion_lab.whole_files import check_writable


def generate(
    config: GenerateConfig,
    show_progress: bool = True,
    announce: bool = True,
    guidance_typed: bool = False,
    renew: bool = False,
) -> Generation:
    """Make images from a checkpoint and write them into ``output.base_dir/output.subdirs.generated``.

    Each image goes to disk, and a line into ``manifest.jsonl``, as soon as its batch is done. Where the folder holds
    images of the same generation, what lacks of them is made: after an interruption the folder is in the end, byte for
    byte, what it would have been without.

    Args:
        config: The checked settings.
        show_progress: Show a progress bar, and whether earlier images were found, on standard error.
        announce: Say as well what is about to be made, with which model, sampler and device.
        guidance_typed: Whether somebody asked for this guidance scale: one that has no effect is then warned of even
            where it is the default.
        renew: Where the folder holds other images, begin anew instead of refusing: for a folder whose name says what is
            in it.

    Raises:
        ValueError, FileNotFoundError, PermissionError: Naming key, value and rule, before anything is written.
        NonFiniteSamplesError: A ValueError; images became NaN or infinite. The others that were made stay.
        MemoryError: Memory is too small for one image at a time.
    """
    refuse_to_start(config)
    device = resolve_device(config.compute.device)
    announce = announce and show_progress
    path = _checkpoint(config, announce)
    sampling = config.generation.sampling
    checkpoint = read_checkpoint(path)
    _refuse_needless_trust(config.generation.trusted, checkpoint)
    config = _with_prediction(config, checkpoint, show_progress)
    denoiser = checkpoint.denoiser(sampling.use_ema, config.model, sampling.ema_decay, config.generation.trusted)
    denoiser.compute_dtype = compute_dtype(checkpoint, sampling, device)
    config = _for_process(config, denoiser.schedule.most_steps, show_progress)
    order = _order(config, checkpoint, denoiser)
    if sampling.labels is not None and order.labels and announce:
        print(f"labels: {', '.join(named_class(label, order.class_names) for label in order.labels)}", file=sys.stderr)
    for doubt in _doubts(sampling, denoiser, order, guidance_typed):
        warnings.warn(doubt, ConfigWarning, stacklevel=2)
    folder = config.output.folder("generated")
    check_writable(folder, "output.base_dir")
    sampler = DiffusionSampler(denoiser, device)
    with (
        computing_with(_threads(config, denoiser, device)),
        opened(folder, order, sampling.num_samples, config.output.overwrite, renew) as room,
    ):
        if announce:
            print(printable(_start_lines(config, checkpoint, sampler, room)), file=sys.stderr)
        return Completion(config, room, sampler, show_progress).complete()


def compute_dtype(checkpoint: Checkpoint, sampling: SamplingSettings, device: torch.device) -> torch.dtype:
    """Return what the network computes in: as asked for, else in less than 32 bits where the run was trained so.

    Raises:
        ValueError: The device does not compute in it.
    """
    wanted = sampling.precision or ("auto" if checkpoint.trained_in_less_than_32_bits else 32)
    return resolve_precision(wanted, device, "generation.sampling.precision")


def _refuse_needless_trust(trusted: Collection[str], checkpoint: Checkpoint) -> None:
    """Refuse to trust a class that the checkpoint does not name: that is a mistyped path, or another checkpoint's."""
    needless = [path for path in trusted if path not in checkpoint.named_classes]
    if needless:
        there = ", ".join(checkpoint.named_classes) or "it names none"
        raise ValueError(
            f"generation.trust must hold only classes that {checkpoint.path} names ({there}), "
            f"got {', '.join(needless)}: leave it out"
        )


def _checkpoint(config: GenerateConfig, say: bool) -> Path:
    """The checkpoint file; which one it is, is said where the settings name a folder."""
    given = config.generation.checkpoint or Path()
    path = find_checkpoint(given)
    if say and given.is_dir():
        of_the_best_job = f" (the best job of {given})" if is_sweep(given) else ""
        print(printable(f"checkpoint: {path}{of_the_best_job}"), file=sys.stderr)
    return path


def _start_lines(config: GenerateConfig, checkpoint: Checkpoint, sampler: DiffusionSampler, room: Opened) -> str:
    """What is about to be made, from which model, where."""
    denoiser, about, sampling = sampler.model, room.order.about, config.generation.sampling
    weights = "averaged weights" if denoiser.weights == "ema" else "raw weights"
    scales = (
        "" if denoiser.num_classes is None else f"guidance {', '.join(f'{scale:g}' for scale in sampling.scales)}, "
    )
    model = checkpoint.model or config.model
    assert model is not None  # else there would be no denoiser
    rows = {
        "images": images_in_words(room.count, denoiser.image_shape, denoiser.num_classes),
        "sampler": f"{about['sampler']}, {about['steps']} steps, {scales}{weights}",
        "diffusion": process_in_words(model.diffusion, denoiser.schedule.most_steps),
        "compute": compute_in_words(
            sampler.device,
            torch.get_num_threads(),
            denoiser.compute_dtype,
            about["seed"],
            drawn=config.compute.seed is None,
        ),
    }
    return aligned(rows)


def _threads(config: GenerateConfig, denoiser: Denoiser, device: torch.device) -> int:
    """The threads of the settings, else as many as a batch gains from and are free."""
    if config.compute.threads != "auto":
        return config.compute.threads
    if device.type != "cpu":
        return torch.get_num_threads()
    images = min(config.generation.sampling.batch_size, config.generation.sampling.num_samples)
    flops = count_forward_flops(denoiser.network, denoiser.image_shape, denoiser.num_classes)
    return choose_threads(None if flops is None else flops * images, torch.get_num_threads())


def _for_process(config: GenerateConfig, most_steps: int | None, say: bool) -> GenerateConfig:
    """The settings with default sampling steps no more than the process of the checkpoint has, which is said."""
    sampler = config.sampler.for_process(most_steps)
    if sampler is not config.sampler and say:
        print(f"sampler.steps is {most_steps}: the noise process of the checkpoint has no more.", file=sys.stderr)
    return config.model_copy(update={"sampler": sampler})


def _with_prediction(config: GenerateConfig, checkpoint: Checkpoint, say: bool) -> GenerateConfig:
    """The settings with the prediction that is taken for the checkpoint, which is said where nobody asked for it."""
    if config.model is None:
        return config
    model, note = checkpoint.with_prediction(config.model), checkpoint.prediction_note(config.model)
    if note is not None and say:
        print(printable(note), file=sys.stderr)
    return config.model_copy(update={"model": model})


def _order(config: GenerateConfig, checkpoint: Checkpoint, denoiser: Denoiser) -> Order:
    """The images that the settings ask for, the seed left open where they leave it."""
    sampling = config.generation.sampling
    about = {
        "sampler": config.sampler.type,
        "sampler_options": without_folders(redacted(config.sampler.extra_options)),
        "guidance_interval": config.guidance.interval,
        "guidance_rescale": config.guidance.rescale,
        "use_ema": denoiser.weights == "ema",  # what is used, which is not what was asked for where there is no average
        "checkpoint": name_for_others(checkpoint.path),
        "checkpoint_sha256": file_hash(checkpoint.path),
        "config_hash": checkpoint.about.get("config_hash"),
        "data_fingerprint": checkpoint.about.get("data_fingerprint"),
        "seed": config.compute.seed,
        "steps": len(config.sampler.build().levels(denoiser.schedule)) - 1,
        "precision": str(denoiser.compute_dtype).removeprefix("torch."),
        "ema_decay": checkpoint.chosen_decay(sampling.use_ema, sampling.ema_decay),
    }
    labels = labels_in_turn(denoiser, sampling.labels)
    return Order(about, labels, sampling.scales, denoiser.class_names, config.generation.output.save_individual)


def _doubts(sampling: SamplingSettings, denoiser: Denoiser, order: Order, guidance_typed: bool) -> Iterator[str]:
    """What is allowed and yet unlikely to be meant of this model; of labels that repeat, the shares are meant."""
    section = "generation.sampling"
    yield from doubts_about_images(denoiser.schedule)
    if denoiser.num_classes is None:
        if "guidance_scale" in sampling.model_fields_set:  # else nobody asked for it
            yield from doubts_about_guidance(f"{section}.guidance_scale", sampling.guidance_scale, guidance_typed)
    else:
        if denoiser.label_dropout is not None:
            key = f"{section}.guidance_scale"
            yield from doubts_about_dropout(key, sampling.guidance_scale, denoiser.label_dropout)
        labels = order.round_length
        if len(set(order.labels or ())) == labels:
            yield from doubts_about_shares(f"{section}.num_samples", sampling.num_samples, labels)
        yield from doubts_about_rounds(f"{section}.num_samples", sampling.num_samples, labels, len(sampling.scales))
