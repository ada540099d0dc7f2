"""Images that a report samples from a checkpoint: denoising strips, and guidance × steps."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

from diffusion_lab.checkpoint import load_denoiser
from diffusion_lab.checkpoint.files import file_hash, find_checkpoint
from diffusion_lab.denoiser import Denoiser
from diffusion_lab.diffusion.level import Level
from diffusion_lab.files.writing import atomic_write
from diffusion_lab.image_grids import FONT_SIZE, INK, PAPER, class_grid, image_grid
from diffusion_lab.reports.sampled_files import FOLDER, INDEX, index_text, read_index
from diffusion_lab.samplers import DDIMSampler
from diffusion_lab.samplers.base import Denoise, Draw, Estimate
from diffusion_lab.sampling import DiffusionSampler
from diffusion_lab.shapes import Images, to_pixels

SEED = 0
MAX_CLASSES = 8
"""Classes in the strips, spread over all of them."""

COLUMNS = 10
"""Images of a strip."""

STRIP_STEPS = 50
SAMPLER = "ddim"
"""Sampling method of the grid of guidance × steps."""

GRID_STEPS = (3, 5, 10, 20, 50)
GRID_SCALES = (1.0, 2.0, 4.0, 7.0)
CELL_IMAGES = 4
CELL_GAP = 10


def sample_for_report(run_folder: Path) -> bool:
    """Sample the images of a report into the run folder, unless those of its best checkpoint are there.

    Args:
        run_folder: Folder of a run with a checkpoint.

    Returns:
        Whether anything was sampled.

    Raises:
        FileNotFoundError: It has no checkpoint.
        ValueError: The checkpoint cannot be loaded, for example because it names a class that is not trusted.
    """
    checkpoint, folder = find_checkpoint(run_folder), run_folder / FOLDER
    digest = file_hash(checkpoint)
    index = read_index(folder)
    if index.get("checkpoint_sha256") == digest and all((folder / e["file"]).is_file() for e in index["pictures"]):
        return False
    denoiser = load_denoiser(checkpoint, device="auto")
    model = DiffusionSampler(denoiser, device="auto")
    noisy, clean = draw_strips(model)
    grid = draw_guidance_and_steps(model)
    scales = "guidance × steps" if denoiser.num_classes is not None else "numbers of steps"
    pictures = [
        ("denoising.png", "from noise (left) to image (right): what the sampler holds", noisy),
        ("estimates.png", "the same moments: what the network believes that the image will be", clean),
        ("guidance_steps.png", f"{scales}, sampled by {SAMPLER} from the same noise", grid),
    ]
    folder.mkdir(exist_ok=True)
    for name, _, image in pictures:
        with atomic_write(folder / name, durable=False) as partial:
            image.save(partial, "PNG")
    with atomic_write(folder / INDEX, durable=False) as partial:
        entries = [{"file": name, "caption": caption} for name, caption, _ in pictures]
        partial.write_text(index_text(checkpoint, digest, denoiser.weights, entries))
    return True


@dataclass(frozen=True)
class RecordingDDIM(DDIMSampler):
    """DDIM that keeps the noisy images and the clean estimates of every step."""

    noisy: list[Images] = field(default_factory=list)
    clean: list[Images] = field(default_factory=list)

    def step(
        self, x: Images, history: Sequence[Estimate], next_level: Level[float], denoise: Denoise, draw_noise: Draw
    ) -> Images:
        self.noisy.append(x)
        self.clean.append(history[-1].clean)
        return super().step(x, history, next_level, denoise, draw_noise)


def draw_strips(model: DiffusionSampler, steps: int = STRIP_STEPS) -> tuple[Image.Image, Image.Image]:
    """Return strips of the noisy images from the first level to the last, and of the clean estimates there.

    Args:
        model: The model.
        steps: Number of sampling steps, at least ``COLUMNS``; the noise process may have fewer.
    """
    labels = spread_classes(model.model, MAX_CLASSES)
    recorder = RecordingDDIM(steps=min(steps, model.model.schedule.most_steps or steps))
    count = MAX_CLASSES if labels is None else len(labels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about options of the recorder
        final = model.sample(count, labels, _scale(model.model), seed=SEED, sampler=recorder, batch_size=count)
    moments = len(recorder.noisy)
    shown = [round(index * (moments - 1) / (COLUMNS - 2)) for index in range(COLUMNS - 1)]
    names = model.model.class_names
    strips = []
    for images in ([recorder.noisy[i] for i in shown], [recorder.clean[i] for i in shown]):
        columns = torch.stack([*images, final]).transpose(0, 1).flatten(0, 1).clamp(-1, 1)
        pixels = to_pixels(columns)
        if labels is None:
            strips.append(image_grid(pixels, COLUMNS))
        else:
            strips.append(class_grid(pixels, [label for label in labels for _ in range(COLUMNS)], names))
    return strips[0], strips[1]


def draw_guidance_and_steps(model: DiffusionSampler) -> Image.Image:
    """Return small grids of the same noise, one for each guidance scale (rows) and number of steps (columns).

    The last column has all steps of a noise process that has fewer than the others.
    """
    labels = spread_classes(model.model, CELL_IMAGES)
    count = CELL_IMAGES if labels is None else len(labels)
    scales = (1.0,) if labels is None else GRID_SCALES
    most = model.model.schedule.most_steps
    columns = sorted({min(steps, most or steps) for steps in GRID_STEPS})
    cells = []
    for scale in scales:
        row = []
        for steps in columns:
            images = model.sample(
                count, labels, scale, seed=SEED, sampler={"type": SAMPLER, "steps": steps}, batch_size=count
            )
            row.append(image_grid(to_pixels(images)))
        cells.append(row)
    rows = [f"guidance {scale:g}" for scale in scales] if labels is not None else [""]
    return _table(cells, rows, [f"{steps} steps" for steps in columns])


def spread_classes(denoiser: Denoiser, most: int) -> list[int] | None:
    """Return at most ``most`` classes, spread over all; None for an unconditional model."""
    classes = denoiser.num_classes
    if classes is None:
        return None
    count = min(most, classes)
    return [index * classes // count for index in range(count)]


def _scale(denoiser: Denoiser) -> float:
    return 0.0 if denoiser.num_classes is None else 2.0


def _table(cells: Sequence[Sequence[Image.Image]], rows: Sequence[str], columns: Sequence[str]) -> Image.Image:
    """Arrange images of equal size in a table with captions."""
    font = ImageFont.load_default(size=FONT_SIZE)
    width, height = (size + CELL_GAP for size in cells[0][0].size)
    left = max(int(font.getlength(name)) for name in rows) + 14
    top = FONT_SIZE + 12
    sheet = Image.new("RGB", (left + width * len(columns), top + height * len(rows)), PAPER)
    draw = ImageDraw.Draw(sheet)
    for x, name in enumerate(columns):
        draw.text((left + x * width + 2, top // 2), name, INK, font, anchor="lm")
    for y, (name, row) in enumerate(zip(rows, cells, strict=True)):
        draw.text((4, top + y * height + height // 2), name, INK, font, anchor="lm")
        for x, image in enumerate(row):
            sheet.paste(image, (left + x * width, top + y * height))
    return sheet
