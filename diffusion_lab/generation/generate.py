"""Generation from settings: images from a checkpoint alone, written to disk batch by batch."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Collection, Iterator
from pathlib import Path

import torch

from diffusion_lab.checkpoint import Checkpoint, file_hash, find_checkpoint, read_checkpoint
from diffusion_lab.checkpoint.export import public_name
from diffusion_lab.checkpoint.files import is_sweep
from diffusion_lab.config.schema import GenerateConfig, SamplingSettings
from diffusion_lab.config.validate import check_ready_to_start
from diffusion_lab.console.redaction import redacted, without_folders
from diffusion_lab.console.terminal import printable
from diffusion_lab.denoiser import Denoiser
from diffusion_lab.faults import ConfigWarning
from diffusion_lab.faults.sampling_warnings import (
    dropout_warnings,
    guidance_warnings,
    label_round_warnings,
    label_share_warnings,
)
from diffusion_lab.files.writing import check_writable
from diffusion_lab.generation.completion import Completion, Generation
from diffusion_lab.generation.open_folder import GenerationFolder, open_generation_folder
from diffusion_lab.generation.request import GenerationRequest, cycle_labels, describe_class
from diffusion_lab.networks.cost import count_forward_flops
from diffusion_lab.runs.startup_lines import aligned, describe_compute, describe_images, describe_process
from diffusion_lab.runtime.devices import resolve_device, use_threads
from diffusion_lab.runtime.precision import resolve_precision
from diffusion_lab.runtime.threads import choose_threads
from diffusion_lab.sampling import DiffusionSampler
from diffusion_lab.sampling.terminal_noise import image_process_warnings


def generate(
    config: GenerateConfig,
    show_progress: bool = True,
    announce: bool = True,
    guidance_typed: bool = False,
    renew: bool = False,
) -> Generation:
    """Generate images from a checkpoint into ``output.base_dir/output.subdirs.generated``.

    Each image is written to disk, and a line to ``manifest.jsonl``, as soon as its batch is done. If the folder holds
    images of the same generation, only the missing ones are generated: an interrupted generation that is run again
    ends with the same files, byte for byte, as an uninterrupted one.

    Args:
        config: The checked settings.
        show_progress: Show a progress bar, and whether earlier images were found, on standard error.
        announce: Also print what will be generated, with which model, sampler and device.
        guidance_typed: Whether the user set this guidance scale: then a scale without effect causes a warning even if
            it is the default.
        renew: Start over if the folder holds other images instead of refusing: for a folder whose name identifies its
            images.

    Raises:
        ValueError, FileNotFoundError, PermissionError: Naming key, value and rule, before anything is written.
        NonFiniteSamplesError: A ValueError; images became NaN or infinite. The other finished images stay.
        MemoryError: Memory is too small for a single image.
    """
    check_ready_to_start(config)
    device = resolve_device(config.compute.device)
    announce = announce and show_progress
    path = _find_checkpoint(config, announce)
    sampling = config.generation.sampling
    checkpoint = read_checkpoint(path)
    _check_trust(config.generation.trusted, checkpoint)
    config = _resolve_prediction(config, checkpoint, show_progress)
    denoiser = checkpoint.denoiser(sampling.use_ema, config.model, sampling.ema_decay, config.generation.trusted)
    denoiser.compute_dtype = compute_dtype(checkpoint, sampling, device)
    config = _limit_steps(config, denoiser.schedule.most_steps, show_progress)
    request = _create_request(config, checkpoint, denoiser)
    if sampling.labels is not None and request.labels and announce:
        print(
            f"labels: {', '.join(describe_class(label, request.class_names) for label in request.labels)}",
            file=sys.stderr,
        )
    for warning in _warnings(sampling, denoiser, request, guidance_typed):
        warnings.warn(warning, ConfigWarning, stacklevel=2)
    folder = config.output.folder("generated")
    check_writable(folder, "output.base_dir")
    sampler = DiffusionSampler(denoiser, device)
    with (
        use_threads(_threads(config, denoiser, device)),
        open_generation_folder(folder, request, sampling.num_samples, config.output.overwrite, renew) as target,
    ):
        if announce:
            print(printable(_start_lines(config, checkpoint, sampler, target)), file=sys.stderr)
        return Completion(config, target, sampler, show_progress).complete()


def compute_dtype(checkpoint: Checkpoint, sampling: SamplingSettings, device: torch.device) -> torch.dtype:
    """Return the dtype the network computes in: the requested one, else mixed precision if the run was trained in it.

    Raises:
        ValueError: The device does not support it.
    """
    precision = sampling.precision or ("auto" if checkpoint.used_mixed_precision else 32)
    return resolve_precision(precision, device, "generation.sampling.precision")


def _check_trust(trusted: Collection[str], checkpoint: Checkpoint) -> None:
    """Refuse to trust a class that the checkpoint does not name: a typo, or a class of another checkpoint."""
    unknown = [path for path in trusted if path not in checkpoint.named_classes]
    if unknown:
        known = ", ".join(checkpoint.named_classes) or "it names none"
        raise ValueError(
            f"generation.trust must hold only classes that {checkpoint.path} names ({known}), "
            f"got {', '.join(unknown)}: leave it out"
        )


def _find_checkpoint(config: GenerateConfig, show_progress: bool) -> Path:
    """Return the checkpoint file, and print it if the settings name a folder."""
    source = config.generation.checkpoint or Path()
    path = find_checkpoint(source)
    if show_progress and source.is_dir():
        note = f" (the best job of {source})" if is_sweep(source) else ""
        print(printable(f"checkpoint: {path}{note}"), file=sys.stderr)
    return path


def _start_lines(
    config: GenerateConfig, checkpoint: Checkpoint, sampler: DiffusionSampler, target: GenerationFolder
) -> str:
    """Describe the images, the model, the sampler and the device."""
    denoiser, metadata, sampling = sampler.model, target.request.metadata, config.generation.sampling
    weights = "averaged weights" if denoiser.weights == "ema" else "raw weights"
    scales = (
        "" if denoiser.num_classes is None else f"guidance {', '.join(f'{scale:g}' for scale in sampling.scales)}, "
    )
    model = checkpoint.model or config.model
    assert model is not None  # else there would be no denoiser
    rows = {
        "images": describe_images(target.count, denoiser.image_shape, denoiser.num_classes),
        "sampler": f"{metadata['sampler']}, {metadata['steps']} steps, {scales}{weights}",
        "diffusion": describe_process(model.diffusion, denoiser.schedule.most_steps),
        "compute": describe_compute(
            sampler.device,
            torch.get_num_threads(),
            denoiser.compute_dtype,
            metadata["seed"],
            drawn=config.compute.seed is None,
        ),
    }
    return aligned(rows)


def _threads(config: GenerateConfig, denoiser: Denoiser, device: torch.device) -> int:
    """Return the number of threads in the settings, or as many as a batch benefits from and are free."""
    if config.compute.threads != "auto":
        return config.compute.threads
    if device.type != "cpu":
        return torch.get_num_threads()
    images = min(config.generation.sampling.batch_size, config.generation.sampling.num_samples)
    flops = count_forward_flops(denoiser.network, denoiser.image_shape, denoiser.num_classes)
    return choose_threads(None if flops is None else flops * images, torch.get_num_threads())


def _limit_steps(config: GenerateConfig, most_steps: int | None, show_progress: bool) -> GenerateConfig:
    """Limit the default number of sampling steps to that of the checkpoint's noise process, and print that."""
    sampler = config.sampler.for_process(most_steps)
    if sampler is not config.sampler and show_progress:
        print(f"sampler.steps is {most_steps}: the noise process of the checkpoint has no more.", file=sys.stderr)
    return config.model_copy(update={"sampler": sampler})


def _resolve_prediction(config: GenerateConfig, checkpoint: Checkpoint, show_progress: bool) -> GenerateConfig:
    """Set the prediction to the one used for the checkpoint, and print it if the user did not set it."""
    if config.model is None:
        return config
    model, note = checkpoint.with_prediction(config.model), checkpoint.prediction_note(config.model)
    if note is not None and show_progress:
        print(printable(note), file=sys.stderr)
    return config.model_copy(update={"model": model})


def _create_request(config: GenerateConfig, checkpoint: Checkpoint, denoiser: Denoiser) -> GenerationRequest:
    """Create the request of the settings; the seed is None if they leave it open."""
    sampling = config.generation.sampling
    metadata = {
        "sampler": config.sampler.type,
        "sampler_options": without_folders(redacted(config.sampler.options)),
        "guidance_interval": config.guidance.interval,
        "guidance_rescale": config.guidance.rescale,
        "use_ema": denoiser.weights == "ema",  # the weights used: not the requested ones if there is no average
        "checkpoint": public_name(checkpoint.path),
        "checkpoint_sha256": file_hash(checkpoint.path),
        "config_hash": checkpoint.metadata.get("config_hash"),
        "data_fingerprint": checkpoint.metadata.get("data_fingerprint"),
        "seed": config.compute.seed,
        "steps": len(config.sampler.build().levels(denoiser.schedule)) - 1,
        "precision": str(denoiser.compute_dtype).removeprefix("torch."),
        "ema_decay": checkpoint.select_decay(sampling.use_ema, sampling.ema_decay),
    }
    labels = cycle_labels(denoiser, sampling.labels)
    return GenerationRequest(
        metadata, labels, sampling.scales, denoiser.class_names, config.generation.output.save_individual
    )


def _warnings(
    sampling: SamplingSettings, denoiser: Denoiser, request: GenerationRequest, guidance_typed: bool
) -> Iterator[str]:
    """Yield warnings about settings that are valid but likely unintended for this model.

    Repeated labels are an intended distribution, so they cause no warning about the share of each class.
    """
    section = "generation.sampling"
    yield from image_process_warnings(denoiser.schedule)
    if denoiser.num_classes is None:
        if "guidance_scale" in sampling.model_fields_set:  # else the user did not set it
            yield from guidance_warnings(f"{section}.guidance_scale", sampling.guidance_scale, guidance_typed)
    else:
        if denoiser.label_dropout is not None:
            key = f"{section}.guidance_scale"
            yield from dropout_warnings(key, sampling.guidance_scale, denoiser.label_dropout)
        labels = request.round_length
        if len(set(request.labels or ())) == labels:
            yield from label_share_warnings(f"{section}.num_samples", sampling.num_samples, labels)
        yield from label_round_warnings(f"{section}.num_samples", sampling.num_samples, labels, len(sampling.scales))
