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
    for scale, row in zip(SCALES, axes, strict=True):
        images = sampler.sample(len(names), class_labels=names, guidance_scale=scale, seed=0)
        for axis, image in zip(row, to_pixels(images).cpu(), strict=True):
            axis.imshow(image.permute(1, 2, 0), cmap="gray")
            axis.set(xticks=[], yticks=[])
        row[0].set_ylabel(f"scale {scale:g}")
    for axis, name in zip(axes[0], names, strict=True):
        axis.set_title(name)
    figure.savefig(file, dpi=150)
    print(Path(file).resolve())


if __name__ == "__main__":
    main(*sys.argv[1:])
