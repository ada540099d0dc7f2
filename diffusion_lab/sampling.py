"""The front door for images: seeds, labels, batches, averaged weights and progress around a sampler."""

from __future__ import annotations

import contextlib
import secrets
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from diffusion_lab.config.faults import ConfigWarning
from diffusion_lab.denoiser import Denoiser
from diffusion_lab.devices import resolve_device
from diffusion_lab.ema import EMA
from diffusion_lab.finiteness import FinitenessWatch, NonFiniteSamplesError
from diffusion_lab.guidance import PLAIN, Guidance, guidance_scales, guided
from diffusion_lab.memory import freed_memory_kept, in_fitting_batches
from diffusion_lab.networks.convolution import fixed_filters
from diffusion_lab.samplers import DDIMSampler, Sampler
from diffusion_lab.seeds import derive_seed
from diffusion_lab.shapes import Images, Labels

BATCH_SIZE_KEY = "generation.sampling.batch_size"


class ImageNoise:
    """Standard normal noise in which every image has a generator of its own.

    What image i gets depends on the seed and on i alone: not on the batch it is in, and not on the device, since
    the numbers are drawn on the CPU.

    Args:
        seed: The seed of all images.
        indices: The numbers of this batch's images, ``N`` of them.
        image_shape: ``(C, H, W)``.
        device: Where the noise is needed.
    """

    def __init__(self, seed: int, indices: Sequence[int], image_shape: tuple[int, ...], device: torch.device) -> None:
        self.generators = [torch.Generator().manual_seed(derive_seed("image", seed, index)) for index in indices]
        self.image_shape = image_shape
        self.device = device

    def __call__(self) -> Images:
        """Draw the next noise of each image, ``(N, C, H, W)``."""
        noise = [torch.randn(self.image_shape, generator=generator) for generator in self.generators]
        return torch.stack(noise).to(self.device)


@dataclass(frozen=True)
class SampleBatch:
    """Finished images, with the number of the first of them among all that were asked for."""

    first: int
    images: Images


class DiffusionSampler:
    """Draws images from a denoiser. It needs no optimizer, data loader, logger or trainer.

    The model is left as it was found: weights, train or eval mode, and the state of torch's random generators.

    Args:
        model: The denoiser.
        device: Where to sample; model and ``ema`` are moved there.
        ema: An ``EMA`` of the model, whose main average is sampled as it is at each call, or the same denoiser with
            averaged weights.

    Raises:
        TypeError: ``model`` is no denoiser, or ``ema`` neither an ``EMA`` of one nor a denoiser.
        ValueError: ``ema`` makes images of another shape or other classes than ``model``.

    Example:
        >>> from diffusion_lab import DiffusionSampler, create_ddpm
        >>> from diffusion_lab.samplers import DDIMSampler
        >>> model = create_ddpm(image_size=8, in_channels=1, model_channels=8, channel_multipliers=[1, 2],
        ...                     use_attention=[False, True], num_classes=10)
        >>> DiffusionSampler(model).sample(2, class_labels=[3, 7], seed=0, sampler=DDIMSampler(steps=2)).shape
        torch.Size([2, 1, 8, 8])
    """

    def __init__(
        self, model: Denoiser, device: str | torch.device = "cpu", ema: EMA[Denoiser] | Denoiser | None = None
    ) -> None:
        averaged = _checked_average(_checked_model(model), ema)
        self.device = resolve_device(device, "device")
        self.model = model.to(self.device)
        if isinstance(ema, EMA):
            ema.to(self.device)  # all of it, so that its next update finds its average there
        self.ema = averaged.to(self.device) if averaged is not None else None

    def sample(
        self,
        num_samples: int,
        class_labels: Sequence[int] | Labels | None = None,
        guidance_scale: float | Sequence[float] | Tensor | None = 0.0,
        use_ema: bool = True,
        show_progress: bool = False,
        *,
        sampler: Sampler | None = None,
        guidance: Guidance = PLAIN,
        seed: int | None = None,
        batch_size: int = 64,
        first: int = 0,
    ) -> Images:
        """Draw images.

        Image i of a seed, with its label and scale, is the same image whatever the batch size, the number of images
        and the labels and scales of the others.

        Args:
            num_samples: How many, at least 1.
            class_labels: A class number for each image; None samples without a label.
            guidance_scale: Of classifier-free guidance, ``uncond + scale · (cond − uncond)``: one number ≥ 0, or one
                for each image. 0 and None switch it off; so 0 is the plain conditional model, as 1 is.
            use_ema: Take the averaged weights, where there are some.
            show_progress: Show a progress bar.
            sampler: The method; 50 steps of DDIM where None (fewer, if the process has fewer).
            guidance: At which noise levels guidance is applied, and how tamed.
            seed: Of the images, an integer ≥ 0; None takes one from the operating system.
            batch_size: Images made at a time; halved, with a warning, where memory is too small for them.
            first: Number of the first image, to go on behind images made earlier with the same seed.

        Returns:
            Float tensor ``(N, C, H, W)`` in [-1, 1] on the sampler's device.

        Raises:
            ValueError: For a label outside the classes, labels for an unconditional model, a number of labels or
                scales other than ``num_samples``, or a number out of its bounds; ``NonFiniteSamplesError`` where images
                become NaN or infinite, with the step, what to do, and the images that were finished (``indices`` and
                ``images``).
            MemoryError: Memory is too small for one image at a time.
        """
        if class_labels is not None:
            self._warn_of_untrained_guidance(use_ema, guidance_scale)
        batches = self.stream(
            num_samples,
            class_labels,
            guidance_scale,
            use_ema,
            show_progress,
            sampler=sampler,
            guidance=guidance,
            seed=seed,
            batch_size=batch_size,
            first=first,
        )
        parts: list[Images] = []
        try:
            for batch in batches:
                parts.append(batch.images)
        except NonFiniteSamplesError as error:
            if not parts:
                raise
            done = torch.cat(parts)
            raise error.with_earlier(len(done), done, first) from None
        return torch.cat(parts)

    def sample_by_class(
        self,
        samples_per_class: int,
        num_classes: int,
        guidance_scale: float | Sequence[float] | Tensor | None = 0.0,
        use_ema: bool = True,
        show_progress: bool = False,
        *,
        sampler: Sampler | None = None,
        guidance: Guidance = PLAIN,
        seed: int | None = None,
        batch_size: int = 64,
    ) -> tuple[Images, list[int]]:
        """Draw the same number of images of each of the first ``num_classes`` classes, class after class.

        Further arguments as of ``sample``.

        Returns:
            Images ``(samples_per_class · num_classes, C, H, W)`` and the class of each.
        """
        labels = [label for label in range(num_classes) for _ in range(samples_per_class)]
        images = self.sample(
            len(labels),
            labels,
            guidance_scale,
            use_ema,
            show_progress,
            sampler=sampler,
            guidance=guidance,
            seed=seed,
            batch_size=batch_size,
        )
        return images, labels

    def stream(
        self,
        num_samples: int,
        class_labels: Sequence[int] | Labels | None = None,
        guidance_scale: float | Sequence[float] | Tensor | None = 0.0,
        use_ema: bool = True,
        show_progress: bool = False,
        *,
        sampler: Sampler | None = None,
        guidance: Guidance = PLAIN,
        seed: int | None = None,
        batch_size: int = 64,
        first: int = 0,
    ) -> Iterator[SampleBatch]:
        """Draw images batch by batch, each handed over as soon as it is done; arguments as of ``sample``.

        Raises:
            ValueError, MemoryError: As of ``sample``; a ``NonFiniteSamplesError`` holds finite images of its own batch.
        """
        denoiser = self.ema if use_ema and self.ema is not None else self.model
        labels = self._checked_labels(denoiser, num_samples, class_labels)
        scales = _checked_scales(num_samples, guidance_scale)
        for name, value, least in (("batch_size", batch_size, 1), ("seed", seed or 0, 0), ("first", first, 0)):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        image_seed = secrets.randbits(32) if seed is None else seed
        method = sampler or _default_sampler(denoiser)
        levels = method.levels(denoiser.schedule)

        def draw(part: slice, advance: Callable[[float], None]) -> Images:
            indices = range(first + part.start, first + part.stop)
            noise = ImageNoise(image_seed, indices, denoiser.image_shape, self.device)
            label = None if labels is None else labels[part]
            denoise = guided(denoiser, scales[part], guidance)
            images = noise()
            steps = len(levels) - 1
            watch = FinitenessWatch(denoiser, indices.start, len(indices), steps, self.device)
            walk = method.walk(lambda x, level: watch.check(denoise(x, level, label)), images, levels, noise)
            with evaluating(denoiser), fixed_filters(denoiser), freed_memory_kept(self.device), torch.no_grad():
                for step, moved in enumerate(walk, start=1):
                    images = watch.check(moved)
                    watch.finish_step()
                    advance(part.start + len(indices) * step / steps)
            return watch.finish(images.clamp(-1, 1))

        def batches() -> Iterator[SampleBatch]:
            with _progress(num_samples, show_progress) as advance:
                parts = in_fitting_batches(lambda part: draw(part, advance), num_samples, batch_size, BATCH_SIZE_KEY)
                for start, images in parts:
                    yield SampleBatch(first + start, images)

        return batches()

    def _warn_of_untrained_guidance(self, use_ema: bool, scale: float | Sequence[float] | Tensor | None) -> None:
        denoiser = self.ema if use_ema and self.ema is not None else self.model
        if denoiser.label_dropout == 0 and guided(denoiser, scale) is not denoiser:
            warnings.warn(
                "guidance_scale weighs the label against an unconditional estimate, which this model was never trained "
                "for (model.conditioning.class_dropout_prob = 0): 1 is its plain conditional model",
                ConfigWarning,
                stacklevel=3,
            )

    def _checked_labels(
        self, denoiser: Denoiser, num_samples: int, labels: Sequence[int] | Tensor | None
    ) -> Labels | None:
        if num_samples < 1:
            raise ValueError(f"num_samples must be at least 1, got {num_samples}")
        if labels is None:
            return None
        if denoiser.num_classes is None:
            raise ValueError("class_labels were given, but the model is unconditional: leave them out")
        label = torch.as_tensor(labels)
        if label.shape != (num_samples,):
            raise ValueError(
                f"class_labels must hold one label for each of the {num_samples} images, got {label.numel()}"
            )
        if label.is_floating_point() or label.dtype == torch.bool:
            raise ValueError(f"class_labels must be class numbers, got {label.tolist()}")
        label = label.to(self.device, torch.int64)
        outside = sorted({int(value) for value in label if not 0 <= value < denoiser.num_classes})
        if outside:
            raise ValueError(f"class_labels must lie in 0 to {denoiser.num_classes - 1}, got {outside}")
        return label


def _checked_model(model: object) -> Denoiser:
    if not isinstance(model, Denoiser):
        raise TypeError(
            f"model must be a Denoiser, as create_ddpm and load_denoiser return, got {type(model).__name__}"
        )
    return model


def _checked_average(model: Denoiser, ema: object) -> Denoiser | None:
    """The denoiser with averaged weights."""
    average = ema.average if isinstance(ema, EMA) else ema
    if average is None:
        return None
    if not isinstance(average, Denoiser):
        of = f"an EMA of a {type(average).__name__}" if isinstance(ema, EMA) else type(ema).__name__
        raise TypeError(f"ema must be an EMA of a Denoiser, a Denoiser with averaged weights, or None, got {of}")
    for name in ("image_shape", "num_classes"):
        own, theirs = getattr(model, name), getattr(average, name)
        if own != theirs:
            raise ValueError(f"ema must be of the model: its {name} is {theirs}, that of the model {own}")
    return average


def _checked_scales(num_samples: int, scale: float | Sequence[float] | Tensor | None) -> Tensor:
    """The guidance scale of each image."""
    scales = guidance_scales(scale)
    if scales.shape not in ((), (num_samples,)):
        raise ValueError(
            f"guidance_scale must be one number, or one for each of the {num_samples} images, got {scales.numel()}"
        )
    return scales.expand(num_samples)


def _default_sampler(denoiser: Denoiser) -> Sampler:
    return DDIMSampler(steps=min(50, denoiser.schedule.most_steps or 50))


@contextlib.contextmanager
def _progress(images: int, shown: bool) -> Iterator[Callable[[float], None]]:
    """A bar that is told how many images are done, those underway by their share."""
    if not shown:
        yield lambda done: None
        return
    columns = (TextColumn("sampling"), BarColumn(), MofNCompleteColumn(), TextColumn("images,"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=images)
        yield lambda done: progress.update(task, completed=done)


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode, and every module of it back into its own mode afterwards."""
    modes = {module: module.training for module in model.modules()}
    try:  # also around eval(), which a signal can interrupt halfway
        model.eval()
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
