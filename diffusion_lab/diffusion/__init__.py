"""Diffusion arithmetic: noise schedules, parameterizations, the denoising loss."""
