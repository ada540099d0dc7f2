"""Image data: sources, order, augmentation and loading. Independent of diffusion."""
