"""Sample every class of a checkpoint at several guidance scales from the same noise, and plot the images.

`python examples/sample_and_plot.py outputs/demo` writes guidance.png.
"""

import sys
from pathlib import Path

from matplotlib.figure import Figure

from diffusion_lab import DiffusionSampler, load_denoiser
from diffusion_lab.shapes import to_pixels

SCALES = (0.0, 1.5, 2.0, 4.0)


def main(checkpoint: str, file: str = "guidance.png") -> None:
    """Plot one row of images per guidance scale, one column per class."""
    sampler = DiffusionSampler(load_denoiser(checkpoint), device="auto")
    names = sampler.model.class_names
    figure = Figure(figsize=(len(names), len(SCALES)), layout="constrained")
    axes = figure.subplots(len(SCALES), len(names), squeeze=False)
    for row, scale in zip(axes, SCALES, strict=True):
        images = sampler.sample(len(names), list(range(len(names))), guidance_scale=scale, seed=0)
        for axis, image, name in zip(row, to_pixels(images), names, strict=True):
            axis.imshow(image.permute(1, 2, 0).cpu(), cmap="gray")
            axis.set(xticks=[], yticks=[], title=name if row is axes[0] else None)
        row[0].set_ylabel(f"{scale:g}")
    figure.savefig(file, dpi=150)
    print(Path(file).resolve())


if __name__ == "__main__":
    main(*sys.argv[1:])
