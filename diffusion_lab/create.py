"""Creating denoisers from settings: the only module that turns the ``model`` section into objects."""

from __future__ import annotations

import contextlib
import math
import reprlib
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch

from diffusion_lab.arguments import arguments_named, name_arguments
from diffusion_lab.config.defaults import get_default_config
from diffusion_lab.config.model_section import ArchitectureSettings, DiffusionSettings, ModelSettings
from diffusion_lab.config.validate import parse_section
from diffusion_lab.denoiser import Denoiser
from diffusion_lab.diffusion.parameterization import PARAMETERIZATIONS, Parameterization, PreconditionedOutput
from diffusion_lab.diffusion.process_options import DiscreteOptions
from diffusion_lab.diffusion.schedules import BETA_SCHEDULES, DiscreteSchedule, Schedule, enforce_zero_terminal_snr
from diffusion_lab.faults import ConfigWarning
from diffusion_lab.networks.options import DiTOptions, UNetOptions
from diffusion_lab.runtime.devices import host_memory, resolve_device
from diffusion_lab.sampling.terminal_noise import terminal_noise_warnings

MAX_FACTOR = 1e9
"""Maximum factor of the network's output in the clean estimate: beyond it, float32 has no precision left."""

_MODEL = get_default_config()["model"]
_ARCHITECTURE, _DIFFUSION, _CONDITIONING = (_MODEL[name] for name in ("architecture", "diffusion", "conditioning"))


def create_ddpm(
    image_size: int = _ARCHITECTURE["image_size"],
    in_channels: int = _ARCHITECTURE["in_channels"],
    model_channels: int = _ARCHITECTURE["model_channels"],
    channel_multipliers: Sequence[int] = tuple(_ARCHITECTURE["channel_multipliers"]),
    num_classes: int | None = _CONDITIONING["num_classes"],
    num_timesteps: int = _DIFFUSION["num_timesteps"],
    beta_schedule: str = _DIFFUSION["beta_schedule"],
    beta_start: float = _DIFFUSION["beta_start"],
    beta_end: float = _DIFFUSION["beta_end"],
    class_dropout_prob: float = _CONDITIONING["class_dropout_prob"],
    use_attention: Sequence[bool] = tuple(_ARCHITECTURE["use_attention"]),
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

    The arguments up to ``device`` may be positional, in this order; their defaults are those of the V2 format.
    ``device`` is ``cpu``, ``cuda``, ``cuda:1`` (the second GPU), ``mps``, ``auto`` (the best available) or a
    ``torch.device``.

    ``class_dropout_prob`` is used by the training loss; here it lets the sampler know whether the model has learned
    an unconditional estimate for guidance.

    Raises:
        ValueError: Listing every argument that is out of bounds or contradicts another, with its value and the rule; or
            this machine does not have the device.

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
    tree: dict[str, dict[str, Any]] = {
        "architecture": {
            "type": architecture_type,
            "image_size": image_size,
            "in_channels": in_channels,
            "model_channels": model_channels,
            "channel_multipliers": _as_list(channel_multipliers),
            "use_attention": _as_list(use_attention),
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
    }
    _check_class_names(class_names, num_classes)
    names = {f"model.{section}.{name}": name for section, values in tree.items() for name in values} | TYPE_ARGUMENTS
    with arguments_named(names):
        model = parse_section(ModelSettings, tree, "model")
        denoiser = create_denoiser(model, class_names).to(target)
    for warning in terminal_noise_warnings(denoiser.schedule, model.diffusion):
        warnings.warn(name_arguments(warning, names), ConfigWarning, stacklevel=2)
    return denoiser


TYPE_ARGUMENTS = {
    "model.architecture.type": "architecture_type",
    "model.diffusion.type": "diffusion_type",
    "model.conditioning.type": "num_classes",
    "model.architecture": "the network",
}
"""Arguments of ``create_ddpm`` by keys whose last part is another name."""


def _as_list(values: object) -> object:
    """Return an iterable as settings hold it, a list; anything else unchanged, to be refused with its name."""
    return list(values) if isinstance(values, Iterable) and not isinstance(values, str) else values


def _check_class_names(class_names: Sequence[str], num_classes: object) -> None:
    """Raise ValueError unless there is a different name for each class, or no name."""
    if not all(isinstance(name, str) for name in class_names):
        raise ValueError(f"class_names must be a sequence of strings, got {reprlib.repr(class_names)}")
    if class_names and len(class_names) != num_classes:
        raise ValueError(
            f"class_names must hold a name for each class or none, num_classes is {num_classes}, got "
            f"{len(class_names)}: {reprlib.repr(list(class_names))}"
        )
    if len(set(class_names)) < len(class_names):
        raise ValueError(f"class_names must differ from each other, got {reprlib.repr(list(class_names))}")


def create_denoiser(model: ModelSettings, class_names: Sequence[str] = (), without_weights: bool = False) -> Denoiser:
    """Create an untrained denoiser from the ``model`` section, on the CPU.

    Args:
        model: The section.
        class_names: A name for each class, or nothing.
        without_weights: Create the weights on the device ``meta``, without memory and values, to be replaced with
            ``load_state_dict(…, assign=True)``. Only for networks of this project, which create all other tensors when
            they are used.

    Raises:
        ValueError: The network's class cannot be imported, or its prediction does not determine the image at the last
            step.
    """
    architecture = model.architecture
    check_model_fits_memory(model)
    schedule, parameterization = create_process(model.diffusion), create_parameterization(model.diffusion)
    _check_prediction_at_last_step(parameterization, schedule, model.diffusion.prediction)
    with torch.device("meta") if without_weights else contextlib.nullcontext():
        network = _create_network(architecture, model.conditioning.classes)
    denoiser = Denoiser(
        network=network,
        schedule=schedule,
        parameterization=parameterization,
        image_shape=(architecture.in_channels, architecture.image_size, architecture.image_size),
        num_classes=model.conditioning.classes,
        class_names=tuple(class_names),
    )
    denoiser.label_dropout = model.conditioning.class_dropout_prob
    return denoiser


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
    if factor > MAX_FACTOR:
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
    per_block = architecture.MIN_WEIGHTS_OF_A_BLOCK
    weights = sum(blocks * per_block * width**2 for width, blocks in architecture.stages)
    weights += (model.conditioning.classes or 0) * getattr(architecture, architecture.SIZE_KEYS[0])
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
