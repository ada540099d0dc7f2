"""Creating denoisers from settings: the only module that turns the ``model`` section into objects."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Literal

import torch

from diffusion_lab.config.model_section import (
    ArchitectureSettings,
    DiffusionSettings,
    DiscreteOptions,
    DiTOptions,
    ModelSettings,
    UNetOptions,
)
from diffusion_lab.config.validate import parse_section
from diffusion_lab.denoiser import Denoiser
from diffusion_lab.diffusion.parameterization import PARAMETERIZATIONS, Parameterization, PreconditionedOutput
from diffusion_lab.diffusion.schedules import BETA_SCHEDULES, DiscreteSchedule, Schedule, enforce_zero_terminal_snr
from diffusion_lab.faults import ConfigWarning
from diffusion_lab.runtime.devices import host_memory, resolve_device
from diffusion_lab.terminal_noise import terminal_noise_warnings

LARGEST_FACTOR = 1e9
"""Maximum factor of the network's output in the clean estimate: beyond it, float32 has no precision left."""


def create_ddpm(
    image_size: int = 40,
    in_channels: int = 3,
    model_channels: int = 64,
    channel_multipliers: Sequence[int] = (1, 2, 4),
    num_classes: int | None = None,
    num_timesteps: int = 1000,
    beta_schedule: str = "cosine",
    beta_start: float = 0.0001,
    beta_end: float = 0.02,
    class_dropout_prob: float = 0.1,
    use_attention: Sequence[bool] = (False, False, True),
    device: str | torch.device = "cpu",
    *,
    architecture_type: str = "unet",
    diffusion_type: str = "discrete",
    zero_terminal_snr: bool = False,
    noise_shift: float = 1.0,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    prediction: str = "epsilon",
    sigma_data: float | Literal["auto"] = "auto",
    num_res_blocks: int = 2,
    dropout: float = 0.0,
    head_channels: int = 32,
    patch_size: int = 1,
    class_names: Sequence[str] = (),
) -> Denoiser:
    """Create an untrained denoiser; the arguments have the same meaning as in the ``model`` section.

    The arguments up to ``device`` may be positional, in this order. ``device`` is ``cpu``, ``cuda``, ``cuda:1``
    (the second GPU), ``mps``, ``auto`` (the best available) or a ``torch.device``.

    ``class_dropout_prob`` is used by the training loss; here it tells the sampler whether the model has learned an
    unconditional estimate for guidance.

    Raises:
        ValueError: Listing every argument that is out of bounds or contradicts another; or this machine does not have
            the device.

    Warns:
        ConfigWarning: The noise process does not end in pure noise, where sampling begins; with what to set instead.

    Example:
        A class-conditional model, and an unconditional one with positional arguments:

        >>> model = create_ddpm(image_size=8, in_channels=1, model_channels=8, channel_multipliers=[1, 2],
        ...                     use_attention=[False, True], num_classes=10)
        >>> model.image_shape, model.num_classes
        ((1, 8, 8), 10)
        >>> create_ddpm(8, 1, 8, [1], use_attention=[False]).num_classes is None
        True
    """
    target = resolve_device(device, "device")
    model = parse_section(
        ModelSettings,
        {
            "architecture": {
                "type": architecture_type,
                "image_size": image_size,
                "in_channels": in_channels,
                "model_channels": model_channels,
                "channel_multipliers": list(channel_multipliers),
                "use_attention": list(use_attention),
                "num_res_blocks": num_res_blocks,
                "dropout": dropout,
                "head_channels": head_channels,
                "patch_size": patch_size,
            },
            "diffusion": {
                "type": diffusion_type,
                "num_timesteps": num_timesteps,
                "beta_schedule": beta_schedule,
                "beta_start": beta_start,
                "beta_end": beta_end,
                "zero_terminal_snr": zero_terminal_snr,
                "noise_shift": noise_shift,
                "sigma_min": sigma_min,
                "sigma_max": sigma_max,
                "prediction": prediction,
                "sigma_data": sigma_data,
            },
            "conditioning": {
                "type": None if num_classes is None else "class",
                "num_classes": num_classes,
                "class_dropout_prob": class_dropout_prob,
            },
        },
        "model",
    )
    denoiser = create_denoiser(model, class_names).to(target)
    for warning in terminal_noise_warnings(denoiser.schedule, model.diffusion):
        warnings.warn(warning, ConfigWarning, stacklevel=2)
    return denoiser


def create_denoiser(model: ModelSettings, class_names: Sequence[str] = ()) -> Denoiser:
    """Create an untrained denoiser from the ``model`` section, on the CPU.

    Raises:
        ValueError: The network's class cannot be imported, or its prediction does not determine the image at the last
            step.
    """
    architecture = model.architecture
    check_model_fits_memory(model)
    schedule, parameterization = create_process(model.diffusion), create_parameterization(model.diffusion)
    _check_prediction_at_last_step(parameterization, schedule, model.diffusion.prediction)
    denoiser = Denoiser(
        network=_create_network(architecture, model.conditioning.classes),
        schedule=schedule,
        parameterization=parameterization,
        image_shape=(architecture.in_channels, architecture.image_size, architecture.image_size),
        num_classes=model.conditioning.classes,
        class_names=tuple(class_names),
    )
    denoiser.label_dropout = model.conditioning.class_dropout_prob
    return denoiser


def weight_shapes(model: ModelSettings) -> dict[str, torch.Size]:
    """Return the shapes of a denoiser's weights by name, without allocating memory for them.

    Args:
        model: Section that names a network of this project, not a class by its dotted path.

    Raises:
        ValueError: The weights cannot fit into the memory of this machine.
    """
    check_model_fits_memory(model)
    with torch.device("meta"):
        network = _create_network(model.architecture, model.conditioning.classes)
    return {f"network.{name}": weight.shape for name, weight in network.state_dict().items()}


def create_process(diffusion: DiffusionSettings) -> Schedule:
    """Create the noise process. Raises ValueError if a custom class cannot be imported."""
    if isinstance(diffusion, DiscreteOptions):
        make_betas = BETA_SCHEDULES[diffusion.beta_schedule]
        betas = make_betas(diffusion.num_timesteps, diffusion.beta_start, diffusion.beta_end)
        return DiscreteSchedule(enforce_zero_terminal_snr(betas) if diffusion.zero_terminal_snr else betas)
    schedule: Schedule = diffusion.build()
    return schedule


def create_parameterization(diffusion: DiffusionSettings) -> Parameterization:
    """Create the parameterization. Raises ValueError if ``sigma_data`` has not been measured yet."""
    cls = PARAMETERIZATIONS[diffusion.prediction]
    if not issubclass(cls, PreconditionedOutput):
        return cls()
    if diffusion.sigma_data == "auto":
        raise ValueError("model.diffusion.sigma_data must be a number: auto is measured when training")
    return cls(diffusion.sigma_data)


def _check_prediction_at_last_step(parameterization: Parameterization, schedule: Schedule, prediction: str) -> None:
    """Refuse a prediction, such as the noise, that does not determine the image where no signal is left."""
    last = schedule.level(1.0)
    try:
        factor = abs(parameterization.coefficients(last).c_out)
    except ZeroDivisionError:
        factor = math.inf
    if factor > LARGEST_FACTOR:
        raise ValueError(
            f"model.diffusion.prediction {prediction} needs some of the image left at the last step, got "
            f"alpha = {last.alpha:.1e}: choose v, or a process that leaves some"
        )


def check_model_fits_memory(model: ModelSettings) -> None:
    """Refuse a network that cannot fit into the memory of this machine, before memory is taken for it.

    The estimate is a lower bound, so that nothing feasible is refused: the weights of the second layer of each block
    and of the labels, and the activations of one image before and after one layer of the first stage.
    """
    architecture, pixel = model.architecture, 4  # bytes of a number
    if not isinstance(architecture, UNetOptions | DiTOptions):
        return  # of a custom network nothing is known
    width, _ = architecture.stages[0]
    least_weights = architecture.LEAST_WEIGHTS_OF_A_BLOCK
    weights = sum(blocks * least_weights * width**2 for width, blocks in architecture.stages)
    weights += (model.conditioning.classes or 0) * width
    activations = 2 * width * (architecture.image_size // architecture.patch_size) ** 2
    memory = host_memory()
    for needed, what, keys in (
        (
            weights,
            "the weights",
            f"{', '.join(architecture.SIZE_KEYS)} or model.conditioning.num_classes",
        ),
        (activations, "one image", f"image_size or {architecture.SIZE_KEYS[0]}, or a larger patch_size"),
    ):
        if needed * pixel > memory:
            raise ValueError(
                f"model.architecture needs at least {needed * pixel / 2**30:,.0f} GiB for {what}, this machine has "
                f"{memory / 2**30:,.0f} GiB of memory: take a smaller {keys}"
            )


def _create_network(architecture: ArchitectureSettings, num_classes: int | None) -> torch.nn.Module:
    network: torch.nn.Module = architecture.build(
        image_size=architecture.image_size, in_channels=architecture.in_channels, num_classes=num_classes
    )
    # Convolutions are fastest in channels-last layout, on CPU and GPU alike.
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]
