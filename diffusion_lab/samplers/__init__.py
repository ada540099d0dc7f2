"""Sampling methods, one file each; the sampling loop is in ``base``."""

from __future__ import annotations

from diffusion_lab.samplers.base import Sampler
from diffusion_lab.samplers.ddim import DDIMSampler
from diffusion_lab.samplers.ddpm import DDPMSampler
from diffusion_lab.samplers.dpm_solver_pp import (
    DPMSolverPP2MSampler,
    DPMSolverPP2MSDESampler,
    DPMSolverPP3MSampler,
)
from diffusion_lab.samplers.euler import EulerAncestralSampler, EulerSampler
from diffusion_lab.samplers.heun import HeunSampler
from diffusion_lab.samplers.unipc import UniPCSampler

SAMPLERS: dict[str, type[Sampler]] = {
    "ddpm": DDPMSampler,
    "ddim": DDIMSampler,
    "euler": EulerSampler,
    "euler_ancestral": EulerAncestralSampler,
    "heun": HeunSampler,
    "dpm_solver_pp_2m": DPMSolverPP2MSampler,
    "dpm_solver_pp_3m": DPMSolverPP3MSampler,
    "dpm_solver_pp_2m_sde": DPMSolverPP2MSDESampler,
    "unipc": UniPCSampler,
}
"""Names that ``sampler.type`` takes, besides dotted paths of custom classes."""

__all__ = [
    "SAMPLERS",
    "DDIMSampler",
    "DDPMSampler",
    "DPMSolverPP2MSDESampler",
    "DPMSolverPP2MSampler",
    "DPMSolverPP3MSampler",
    "EulerAncestralSampler",
    "EulerSampler",
    "HeunSampler",
    "Sampler",
    "UniPCSampler",
]
