"""The arithmetic of diffusion: noise schedules, parameterizations, the denoising loss."""
