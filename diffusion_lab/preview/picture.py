"""``preview.png``: training images as the model receives them, noisy ones, and how often each noise level occurs."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from diffusion_lab.console.terminal import on_one_line
from diffusion_lab.diffusion.level import Level
from diffusion_lab.preview.sheet import COLUMNS, Sheet
from diffusion_lab.runs.startup_lines import describe_images, describe_process
from diffusion_lab.shapes import Batch, Images, per_image, to_pixels
from diffusion_lab.training.module import DiffusionModule
from diffusion_lab.training.prepare import PreparedRun

ROWS, NOISY_ROWS = 3, 4
LEVELS = COLUMNS - 1
"""Noise levels shown; the first column is for the clean images."""

CONSIDERED, MOST_VALUES = 256, 2**22
"""Images, and values in them, among which images of different classes are looked for."""

DRAWN = 20_000
"""Quantiles from which the distribution is drawn."""

LARGEST_RATIO = 1e4
"""Noise to signal beyond which a level counts as pure noise, or as clean below its reciprocal."""


def draw_picture(run: PreparedRun) -> Image.Image:
    """Draw the picture of a run."""
    config, names = run.config, run.data.class_names
    values = math.prod(run.denoiser.image_shape)
    batch = run.data.first_images(max(COLUMNS * ROWS, min(CONSIDERED, MOST_VALUES // values)))
    chosen = varied(batch.labels, len(batch.images), COLUMNS * ROWS)
    sheet = Sheet(config.model.architecture.image_size)
    classes = run.denoiser.num_classes
    sheet.title(on_one_line(config.experiment))
    sheet.paragraph(f"Training images: {describe_images(len(run.data.train), run.denoiser.image_shape, classes)}.")
    changes = describe_augmentation(run)
    sheet.heading("Images as the network receives them", f"From the first batches of the run, {changes}.")
    for start in range(0, len(chosen), COLUMNS):
        row = chosen[start : start + COLUMNS]
        sheet.images(to_pixels(batch.images[row]))
        if batch.labels is None:
            sheet.space(8)
        else:
            sheet.captions([sheet.in_two_lines(_name(int(batch.labels[index]), names)) for index in row])
    _draw_noisy(sheet, run, batch, chosen)
    return sheet.finished()


def varied(labels: torch.Tensor | None, total: int, count: int) -> list[int]:
    """Return the indices of ``count`` images, from as many classes as possible, sorted by class.

    >>> varied(torch.tensor([5, 5, 5, 2, 7]), total=5, count=4)
    [3, 0, 1, 4]
    >>> varied(None, total=5, count=4)
    [0, 1, 2, 3]
    """
    if labels is None:
        return list(range(min(total, count)))
    seen: dict[int, int] = {}
    turns = []
    for index, label in enumerate(labels.tolist()):
        seen[label] = seen.get(label, 0) + 1
        turns.append((seen[label], index))
    chosen = [index for _, index in sorted(turns)[:count]]
    return sorted(chosen, key=lambda index: (int(labels[index]), index))


def describe_augmentation(run: PreparedRun) -> str:
    """Describe how training images are decoded, cropped and augmented.

    The images of the picture have gone through all of it.
    """
    data = run.config.data
    augmentation = data.augmentation
    parts = [f"{data.crop} crop"] if data.type == "image_folder" else []
    if run.data.augmentation is not None:
        parts += ["mirrored at random"] if augmentation.horizontal_flip else []
        parts += [f"rotated by up to {augmentation.rotation_degrees:g}°"] if augmentation.rotation_degrees else []
        parts += ["with color jitter"] if augmentation.color_jitter.enabled else []
    return ", ".join(parts) if parts else "without augmentation"


def _name(label: int, names: Sequence[str]) -> str:
    return names[label] if label < len(names) else str(label)


def _draw_noisy(sheet: Sheet, run: PreparedRun, batch: Batch, chosen: Sequence[int]) -> None:
    module = run.module
    levels = training_levels(module, (torch.arange(LEVELS, dtype=torch.float64) + 0.5) / LEVELS)
    ratios = noise_to_signal(levels)
    every = max(len(chosen) // NOISY_ROWS, 1)
    clean = batch.images[[chosen[index] for index in range(0, len(chosen), every)][:NOISY_ROWS]]
    noise = module.loss.draw(clean, batch.seed).noise
    sheet.heading(
        "The same images under noise",
        f"Columns 1 to {LEVELS} are eight equally frequent levels of the training, marked in the diagram below, by "
        "noise to signal σ/α; the contrast is that of the network's input.",
    )
    sheet.captions(["clean", *(f"{number}\nσ/α {_short(ratio)}" for number, ratio in enumerate(ratios, start=1))])
    columns = [clean, *(noisy_images(clean, noise, levels, index) for index in range(LEVELS))]
    for row in range(len(clean)):
        sheet.images([to_pixels(column[row]) for column in columns])
        sheet.space(8)
    process = describe_process(run.config.model.diffusion, run.denoiser.schedule.most_steps)
    sheet.heading(
        "How often training sees each noise level",
        f"Noise process: {process}; times: {run.config.training.loss.times.type}.",
    )
    sheet.picture(draw_distribution(module, ratios, sheet.inner_width))


def training_levels(module: DiffusionModule, shares: torch.Tensor) -> Level[torch.Tensor]:
    """Return the noise levels at quantiles ``(N,)`` of the distribution of training times."""
    schedule = module.denoiser.schedule
    return schedule.levels(schedule.training_times(module.loss.times.quantile(shares, schedule)))


def noise_to_signal(levels: Level[torch.Tensor]) -> list[float]:
    """Return σ/α of noise levels; infinite where nothing of the image is left."""
    return (levels.sigma / levels.alpha).tolist()


def noisy_images(clean: Images, noise: Images, levels: Level[torch.Tensor], index: int) -> Images:
    """Return images at one of the levels, scaled so that α² + σ² = 1."""
    alpha, sigma = float(levels.alpha[index]), float(levels.sigma[index])
    scale = math.hypot(alpha, sigma)
    return per_image(alpha / scale, clean) * clean + per_image(sigma / scale, clean) * noise


def draw_distribution(module: DiffusionModule, marked: Sequence[float], width: int) -> Image.Image:
    """Draw a histogram of σ/α in training, with numbered marks, ``width`` pixels wide."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    shares = (torch.arange(DRAWN, dtype=torch.float64) + 0.5) / DRAWN
    ratios = np.log10(np.clip(noise_to_signal(training_levels(module, shares)), 1 / LARGEST_RATIO, LARGEST_RATIO))
    low, high = np.quantile(ratios, [0.001, 0.999])
    low, high = (low - 0.5, high + 0.5) if high - low < 0.1 else (low, high)
    figure = Figure(figsize=(width / 100, 2.6), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.hist(
        np.clip(ratios, low, high), bins=60, range=(low, high), weights=np.full(DRAWN, 100 / DRAWN), color="#9db8dd"
    )
    top = axes.get_ylim()[1] * 1.18
    for number, ratio in enumerate(marked, start=1):
        position = min(max(math.log10(max(ratio, 1 / LARGEST_RATIO)), low), high)
        axes.axvline(position, ymax=0.86, color="#24456f", linewidth=1, linestyle=(0, (3, 3)))
        axes.text(position, top * 0.9, str(number), ha="center", fontsize=9, color="#24456f")
    axes.set(xlim=(low - 0.02 * (high - low), high + 0.02 * (high - low)), ylim=(0, top))
    axes.set_xticks(*zip(*((math.log10(tick), f"{tick:g}") for tick in round_numbers(10**low, 10**high)), strict=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %"))
    axes.set_xlabel("noise to signal σ/α, logarithmic: almost clean on the left, almost pure noise on the right")
    axes.set_ylabel("of the images")
    axes.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return Image.open(buffer).convert("RGB")


def round_numbers(low: float, high: float) -> list[float]:
    """Return at most ten round numbers between two positive ones, evenly spread on a logarithmic axis.

    >>> round_numbers(0.04, 30)
    [0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0]
    >>> round_numbers(0.0004, 900)
    [0.001, 0.01, 0.1, 1.0, 10.0, 100.0]
    """
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1, 2, 5), (1, 3), (1,)):
        found = [float(f"{digit}e{power}") for power in powers for digit in digits]
        found = [number for number in found if low <= number <= high]
        if len(found) <= 10:
            break
    return found if found else [float(f"{math.sqrt(low * high):.2g}")]


def _short(ratio: float) -> str:
    """Return a ratio with two digits.

    >>> _short(0.01234), _short(153.2), _short(math.inf)
    ('0.012', '150', '∞')
    """
    return "∞" if ratio > LARGEST_RATIO else f"{float(f'{ratio:.2g}'):.4g}"
