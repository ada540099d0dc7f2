"""Where images come from, in which order, and how they reach the device. Knows nothing of diffusion."""
