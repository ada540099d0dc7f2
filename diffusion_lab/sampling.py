"""The front door for images: seeds, labels, batches, averaged weights and progress around a sampler."""

from __future__ import annotations

import contextlib
import numbers
import reprlib
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
from diffusion_lab.guidance import PLAIN, Guidance, guided
from diffusion_lab.memory import explaining_too_little_memory, freed_memory_kept, in_fitting_batches
from diffusion_lab.networks.convolution import fixed_filters
from diffusion_lab.samplers import SAMPLERS, DDIMSampler, Sampler
from diffusion_lab.sampling_request import SamplingRequest
from diffusion_lab.shapes import Images, Labels


@dataclass(frozen=True)
class SampleBatch:
    """Finished images of one batch.

    Args:
        first: Number of its first image among all that were asked for (from ``first`` on, where that was given).
        images: Float tensor ``(N, C, H, W)`` in [-1, 1].
        labels: The class of each image; None where they were sampled without a label.
    """

    first: int
    images: Images
    labels: list[int] | None = None


class DiffusionSampler:
    """Draws images from a denoiser. It needs no optimizer, data loader, logger or trainer.

    The model is left as it was found: weights, train or eval mode, gradients, and the state of torch's random
    generators. ``sample`` returns all images at once, ``sample_by_class`` the same number of each class, ``stream``
    batch after batch, ``sample_batch`` a single batch. docs/sampling-api.md shows each in use.

    Args:
        model: The denoiser.
        device: Where to sample; model and ``ema`` are moved there. ``cpu``, ``cuda``, ``cuda:1`` (the second GPU),
            ``mps``, ``auto`` (the best there is) or a ``torch.device``.
        ema: An ``EMA`` of the model, whose main average is sampled as it is at each call, or the same denoiser with
            averaged weights.

    Raises:
        TypeError: ``model`` is no denoiser, or ``ema`` neither an ``EMA`` of one nor a denoiser.
        ValueError: ``ema`` makes images of another shape or other classes than ``model``, or this machine does not
            have the device.

    Example:
        A class-conditional model, with and without guidance:

        >>> from diffusion_lab import DiffusionSampler, create_ddpm
        >>> from diffusion_lab.samplers import DDIMSampler
        >>> tiny = dict(image_size=8, in_channels=1, model_channels=8, channel_multipliers=[1], use_attention=[False])
        >>> sampler = DiffusionSampler(create_ddpm(**tiny, num_classes=10))
        >>> sampler.sample(2, class_labels=[3, 7], seed=0, sampler=DDIMSampler(steps=2)).shape
        torch.Size([2, 1, 8, 8])
        >>> sampler.sample(2, [3, 7], guidance_scale=3.0, seed=0, sampler=DDIMSampler(steps=2)).shape
        torch.Size([2, 1, 8, 8])

        An unconditional model, which takes no labels:

        >>> DiffusionSampler(create_ddpm(**tiny)).sample(3, seed=0, sampler=DDIMSampler(steps=2)).shape
        torch.Size([3, 1, 8, 8])
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
        noise: Images | None = None,
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
            noise: What the images start from, standard normal numbers ``(N, C, H, W)``; None draws it from the seed.
                The same noise gives the same image whatever the batch; what a stochastic sampler adds on the way
                comes from the seed.

        Returns:
            Float tensor ``(N, C, H, W)`` in [-1, 1] on the sampler's device.

        Raises:
            ValueError: For a label outside the classes, labels for an unconditional model, a number of labels or
                scales other than ``num_samples``, a number out of its bounds, or noise of another shape, of integers or
                not finite; ``NonFiniteSamplesError`` where images become NaN or infinite, with the step, what to do,
                and the images that were finished (``indices`` and ``images``).
            MemoryError: Memory is too small for one image at a time.

        Example:
            >>> import torch
            >>> from diffusion_lab import DiffusionSampler, create_ddpm
            >>> from diffusion_lab.samplers import DDIMSampler
            >>> tiny = dict(image_size=8, in_channels=1, model_channels=8, channel_multipliers=[1],
            ...             use_attention=[False])

            Conditional, each image with a label and here with a guidance scale of its own:

            >>> conditional = DiffusionSampler(create_ddpm(**tiny, num_classes=10))
            >>> conditional.sample(3, [7, 7, 7], guidance_scale=[1, 2, 4], seed=0, sampler=DDIMSampler(steps=2)).shape
            torch.Size([3, 1, 8, 8])

            Unconditional, from noise of your own:

            >>> unconditional = DiffusionSampler(create_ddpm(**tiny))
            >>> noise = torch.randn(2, 1, 8, 8)
            >>> unconditional.sample(2, noise=noise, sampler=DDIMSampler(steps=2)).shape
            torch.Size([2, 1, 8, 8])
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
            noise=noise,
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
        noise: Images | None = None,
    ) -> tuple[Images, list[int]]:
        """Draw the same number of images of each of the first ``num_classes`` classes, class after class.

        Further arguments as of ``sample``.

        Returns:
            Images ``(samples_per_class · num_classes, C, H, W)`` and the class of each.

        Raises:
            ValueError, MemoryError: As of ``sample``. An unconditional model has no classes: use ``sample``.

        Example:
            >>> from diffusion_lab import DiffusionSampler, create_ddpm
            >>> from diffusion_lab.samplers import DDIMSampler
            >>> tiny = dict(image_size=8, in_channels=1, model_channels=8, channel_multipliers=[1],
            ...             use_attention=[False])
            >>> sampler = DiffusionSampler(create_ddpm(**tiny, num_classes=10))
            >>> images, labels = sampler.sample_by_class(2, num_classes=3, seed=0, sampler=DDIMSampler(steps=2))
            >>> images.shape, labels
            (torch.Size([6, 1, 8, 8]), [0, 0, 1, 1, 2, 2])

            >>> unconditional = DiffusionSampler(create_ddpm(**tiny))
            >>> unconditional.sample_by_class(2, num_classes=3)
            Traceback (most recent call last):
            ...
            ValueError: sample_by_class needs a model with classes, and this one is unconditional: call sample()
        """
        for name, value in (("samples_per_class", samples_per_class), ("num_classes", num_classes)):
            if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
                raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
        if self.model.num_classes is None:
            raise ValueError("sample_by_class needs a model with classes, and this one is unconditional: call sample()")
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
            noise=noise,
        )
        return images, labels

    def sample_batch(
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
        first: int = 0,
        noise: Images | None = None,
    ) -> SampleBatch:
        """Draw one batch of images, all of them at the same time; arguments as of ``sample``.

        They are the images that ``sample`` returns. ``sample`` splits them into batches that fit into memory, this
        does not.

        Returns:
            What ``stream`` yields: the number of the first image, the images and their labels.

        Raises:
            ValueError: As of ``sample``.
            MemoryError: Memory is too small for so many images at a time; with what to do.

        Example:
            >>> from diffusion_lab import DiffusionSampler, create_ddpm
            >>> from diffusion_lab.samplers import DDIMSampler
            >>> tiny = dict(image_size=8, in_channels=1, model_channels=8, channel_multipliers=[1],
            ...             use_attention=[False])
            >>> conditional = DiffusionSampler(create_ddpm(**tiny, num_classes=10))
            >>> batch = conditional.sample_batch(3, [0, 1, 2], guidance_scale=2.0, seed=0, sampler=DDIMSampler(steps=2))
            >>> batch.first, batch.images.shape, batch.labels
            (0, torch.Size([3, 1, 8, 8]), [0, 1, 2])

            >>> unconditional = DiffusionSampler(create_ddpm(**tiny))
            >>> batch = unconditional.sample_batch(3, seed=0, first=100, sampler=DDIMSampler(steps=2))
            >>> batch.first, batch.images.shape, batch.labels
            (100, torch.Size([3, 1, 8, 8]), None)
        """
        if class_labels is not None:
            self._warn_of_untrained_guidance(use_ema, guidance_scale)
        denoiser = self._chosen(use_ema)
        request = SamplingRequest.checked(denoiser, num_samples, class_labels, guidance_scale, seed, first, noise)
        draw = _Drawing(denoiser, request, _method(sampler, denoiser), guidance, self.device)
        advice = f"ask for fewer, or use sample({num_samples}, …, batch_size=…), which makes them in smaller batches"
        with (
            explaining_too_little_memory(f"a batch of {num_samples} images", advice),
            _progress(num_samples, show_progress) as advance,
        ):
            return draw(slice(0, num_samples), advance)

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
        noise: Images | None = None,
        batch_size_name: str = "batch_size",
    ) -> Iterator[SampleBatch]:
        """Draw images batch by batch, each handed over as soon as it is done; arguments as of ``sample``.

        The arguments are checked at once, and the first batch is made when it is asked for. Where ``batch_size``
        images do not fit into memory, a warning calls it ``batch_size_name``.

        Yields:
            The number of the first image of a batch, its images and their labels.

        Raises:
            ValueError, MemoryError: As of ``sample``; a ``NonFiniteSamplesError`` holds finite images of its own batch.

        Example:
            >>> from diffusion_lab import DiffusionSampler, create_ddpm
            >>> from diffusion_lab.samplers import DDIMSampler
            >>> model = create_ddpm(image_size=8, in_channels=1, model_channels=8, channel_multipliers=[1],
            ...                     use_attention=[False], num_classes=10)
            >>> stream = DiffusionSampler(model).stream(5, [0, 1, 2, 3, 4], seed=0, batch_size=2,
            ...                                         sampler=DDIMSampler(steps=2))
            >>> [(batch.first, len(batch.images), batch.labels) for batch in stream]
            [(0, 2, [0, 1]), (2, 2, [2, 3]), (4, 1, [4])]
        """
        denoiser = self._chosen(use_ema)
        request = SamplingRequest.checked(denoiser, num_samples, class_labels, guidance_scale, seed, first, noise)
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        draw = _Drawing(denoiser, request, _method(sampler, denoiser), guidance, self.device)

        def batches() -> Iterator[SampleBatch]:
            with _progress(num_samples, show_progress) as advance:
                parts = in_fitting_batches(lambda part: draw(part, advance), num_samples, batch_size, batch_size_name)
                for _, batch in parts:
                    yield batch

        return batches()

    def _chosen(self, use_ema: bool) -> Denoiser:
        if not use_ema and self.model.weights == "ema":
            warnings.warn(
                "use_ema=False has no effect: the model itself holds the averaged weights of its checkpoint; "
                "load_denoiser(…, use_ema=False) loads those as trained",
                ConfigWarning,
                stacklevel=4,
            )
        return self._weights(use_ema)

    def _weights(self, use_ema: bool) -> Denoiser:
        return self.ema if use_ema and self.ema is not None else self.model

    def _warn_of_untrained_guidance(self, use_ema: bool, scale: float | Sequence[float] | Tensor | None) -> None:
        denoiser = self._weights(use_ema)
        if denoiser.label_dropout == 0 and guided(denoiser, scale) is not denoiser:
            warnings.warn(
                "guidance_scale weighs the label against an unconditional estimate, which this model was never trained "
                "for (model.conditioning.class_dropout_prob = 0): 1 is its plain conditional model",
                ConfigWarning,
                stacklevel=3,
            )


class _Drawing:
    """Makes any part of the images of a request. Raises ValueError where the method cannot walk the noise process."""

    def __init__(
        self, denoiser: Denoiser, request: SamplingRequest, method: Sampler, guidance: Guidance, device: torch.device
    ) -> None:
        self.denoiser, self.request, self.method, self.guidance = denoiser, request, method, guidance
        self.device = device
        self.levels = method.levels(denoiser.schedule)

    def __call__(self, part: slice, advance: Callable[[float], None]) -> SampleBatch:
        """Make the images of a part; ``advance`` is called with the number of images that are done."""
        denoiser, device, request = self.denoiser, self.device, self.request
        count, first = part.stop - part.start, request.first + part.start
        label = None if request.labels is None else request.labels[part].to(device)
        denoise = guided(denoiser, request.scales[part], self.guidance)
        images, noise = request.starting_noise(part, device)
        steps = len(self.levels) - 1
        watch = FinitenessWatch(denoiser, first, count, steps, device)
        walk = self.method.walk(lambda x, level: watch.check(denoise(x, level, label)), images, self.levels, noise)
        with evaluating(denoiser), fixed_filters(denoiser), freed_memory_kept(device), torch.no_grad():
            for step, moved in enumerate(walk, start=1):
                images = watch.check(moved)
                watch.finish_step()
                advance(part.start + count * step / steps)
        finished = watch.finish(images.clamp(-1, 1))
        return SampleBatch(first, finished, None if request.labels is None else request.labels[part].tolist())


def _checked_model(model: object) -> Denoiser:
    if not isinstance(model, Denoiser):
        inside = getattr(model, "module", None)
        hint = ": give its .module" if isinstance(inside, Denoiser) else ""
        raise TypeError(
            f"model must be a Denoiser, as create_ddpm and load_denoiser return, got {type(model).__name__}{hint}"
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


def _method(sampler: object, denoiser: Denoiser) -> Sampler:
    """Return the method, by default DDIM of 50 steps, or of as many as the process has.

    Raises:
        TypeError: ``sampler`` is no method.
    """
    if sampler is None:
        return DDIMSampler(steps=min(50, denoiser.schedule.most_steps or 50))
    if not isinstance(sampler, Sampler):
        known = SAMPLERS.get(sampler.lower()) if isinstance(sampler, str) else None
        example = (known or DDIMSampler).__name__
        raise TypeError(
            f"sampler must be a Sampler, such as diffusion_lab.samplers.{example}(), got {reprlib.repr(sampler)}"
        )
    return sampler


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
