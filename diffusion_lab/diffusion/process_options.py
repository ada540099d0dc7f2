"""Options of the noise processes: types, bounds and descriptions, checked before torch is imported."""

from __future__ import annotations

from pydantic import Field

from diffusion_lab.typed_settings.choice import Options


class DiscreteOptions(Options):
    """Options of the discrete process besides the V2 keys."""

    CLASS = "diffusion_lab.diffusion.schedules.DiscreteSchedule"

    zero_terminal_snr: bool = Field(
        default=False, description="Zero signal-to-noise ratio at the last step (arXiv:2305.08891)."
    )


class ContinuousCosineOptions(Options):
    """Options of the cosine schedule in continuous time."""

    CLASS = "diffusion_lab.diffusion.continuous.ContinuousCosineSchedule"

    noise_shift: float = Field(
        default=1.0,
        gt=0,
        description="Factor of the noise-to-signal ratio at every time; larger images need more, such as the side "
        "divided by 64 (arXiv:2301.11093).",
    )


class FlowOptions(ContinuousCosineOptions):
    """Options of rectified flow."""

    CLASS = "diffusion_lab.diffusion.continuous.FlowSchedule"


class EDMOptions(Options):
    """Options of EDM's process."""

    CLASS = "diffusion_lab.diffusion.continuous.EDMSchedule"

    sigma_min: float = Field(default=0.002, gt=0, description="Minimum noise level, less than `sigma_max`.")
    sigma_max: float = Field(default=80.0, gt=0, description="Maximum noise level.")
