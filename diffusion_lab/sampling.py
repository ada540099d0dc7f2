"""Sampling API: seeds, labels, batches, averaged weights and a progress bar around a sampler."""

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

from diffusion_lab.cpu.convolution import cache_filters
from diffusion_lab.cpu.malloc import keep_freed_memory
from diffusion_lab.denoiser import Denoiser
from diffusion_lab.ema import EMA
from diffusion_lab.faults import ConfigWarning
from diffusion_lab.finite_samples import FiniteCheck, NonFiniteSamplesError
from diffusion_lab.guidance import PLAIN, Guidance, guided
from diffusion_lab.runtime.devices import resolve_device
from diffusion_lab.runtime.memory import batches_that_fit, explain_out_of_memory
from diffusion_lab.samplers import SAMPLERS, DDIMSampler, Sampler
from diffusion_lab.sampling_request import SamplingRequest
from diffusion_lab.shapes import Images, Labels


@dataclass(frozen=True)
class SampleBatch:
    """Finished images of one batch.

    Args:
        first: Index of its first image among all requested images, counted from the argument ``first``.
        images: Float tensor ``(N, C, H, W)`` in [-1, 1].
        labels: Class of each image; None if they were sampled without labels.
    """

    first: int
    images: Images
    labels: list[int] | None = None


class DiffusionSampler:
    """Draw images from a denoiser, without an optimizer, data loader, logger or trainer.

    Sampling leaves the model unchanged: weights, train or eval mode, gradients, and the state of torch's random
    generators. ``sample`` returns all images at once, ``sample_by_class`` the same number of each class, ``stream``
    batch after batch, ``sample_batch`` a single batch. docs/sampling-api.md shows each in use.

    Args:
        model: The denoiser.
        device: Device to sample on; model and ``ema`` are moved there. ``cpu``, ``cuda``, ``cuda:1`` (the second GPU),
            ``mps``, ``auto`` (the best available) or a ``torch.device``.
        ema: An ``EMA`` of the model, whose main average is used in its current state at each call, or the same
            denoiser with averaged weights.

    Raises:
        TypeError: ``model`` is not a denoiser, or ``ema`` is neither an ``EMA`` of one nor a denoiser.
        ValueError: ``ema`` has another image shape or other classes than ``model``, or this machine does not have
            the device.

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
        averaged = _averaged_denoiser(_check_model(model), ema)
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

        Image i of a seed, with its label and scale, does not depend on the batch size, the number of images, or the
        labels and scales of the others.

        Args:
            num_samples: Number of images, at least 1.
            class_labels: Class number of each image; None samples without labels.
            guidance_scale: Scale of classifier-free guidance, ``uncond + scale · (cond − uncond)``: one number ≥ 0, or
                one for each image. 0 and None switch guidance off, so 0 is the plain conditional model, as is 1.
            use_ema: Use the averaged weights, if there are any.
            show_progress: Show a progress bar.
            sampler: The sampler; DDIM with 50 steps if None (fewer if the process has fewer).
            guidance: Noise levels at which guidance is applied, and its rescaling.
            seed: Seed of the images, an integer ≥ 0; None takes one from the operating system.
            batch_size: Images per batch; halved, with a warning, if memory is too small.
            first: Index of the first image, to continue after images drawn earlier with the same seed.
            noise: Starting noise, standard normal numbers ``(N, C, H, W)``; None draws it from the seed. The same
                noise gives the same image whatever the batch; the noise that a stochastic sampler adds comes from the
                seed.

        Returns:
            Float tensor ``(N, C, H, W)`` in [-1, 1] on the sampler's device.

        Raises:
            ValueError: A label is outside the classes, the model is unconditional but got labels, the number of labels
                or scales is not ``num_samples``, a number is out of bounds, or the noise has another shape, is not
                floating point or not finite. ``NonFiniteSamplesError`` if images become NaN or infinite, with the
                step, what to do, and the finished images (``indices`` and ``images``).
            MemoryError: Memory is too small for a single image.

        Example:
            >>> import torch
            >>> from diffusion_lab import DiffusionSampler, create_ddpm
            >>> from diffusion_lab.samplers import DDIMSampler
            >>> tiny = dict(image_size=8, in_channels=1, model_channels=8, channel_multipliers=[1],
            ...             use_attention=[False])

            Conditional, with a label and a guidance scale for each image:

            >>> conditional = DiffusionSampler(create_ddpm(**tiny, num_classes=10))
            >>> conditional.sample(3, [7, 7, 7], guidance_scale=[1, 2, 4], seed=0, sampler=DDIMSampler(steps=2)).shape
            torch.Size([3, 1, 8, 8])

            Unconditional, from given noise:

            >>> unconditional = DiffusionSampler(create_ddpm(**tiny))
            >>> noise = torch.randn(2, 1, 8, 8)
            >>> unconditional.sample(2, noise=noise, sampler=DDIMSampler(steps=2)).shape
            torch.Size([2, 1, 8, 8])
        """
        if class_labels is not None:
            self._warn_about_untrained_guidance(use_ema, guidance_scale)
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

        The other arguments are those of ``sample``.

        Returns:
            Images ``(samples_per_class · num_classes, C, H, W)`` and the class of each.

        Raises:
            ValueError, MemoryError: As in ``sample``. An unconditional model has no classes: use ``sample``.

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
        """Draw one batch of images, all at the same time; arguments as in ``sample``.

        The images are those that ``sample`` returns, without being split into batches that fit into memory.

        Returns:
            The index of the first image, the images and their labels, as ``stream`` yields them.

        Raises:
            ValueError: As in ``sample``.
            MemoryError: Memory is too small for the batch; the message says what to do.

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
            self._warn_about_untrained_guidance(use_ema, guidance_scale)
        denoiser = self._select_denoiser(use_ema)
        request = SamplingRequest.create(denoiser, num_samples, class_labels, guidance_scale, seed, first, noise)
        draw = _BatchGenerator(denoiser, request, _resolve_sampler(sampler, denoiser), guidance, self.device)
        advice = f"ask for fewer, or use sample({num_samples}, …, batch_size=…), which makes them in smaller batches"
        with (
            explain_out_of_memory(f"a batch of {num_samples} images", advice),
            _progress_bar(num_samples, show_progress) as advance,
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
        """Draw images batch by batch, each yielded as soon as it is done; arguments as in ``sample``.

        The arguments are checked immediately; each batch is sampled when it is requested. If ``batch_size`` images do
        not fit into memory, the warning calls it ``batch_size_name``.

        Yields:
            The index of the first image of a batch, its images and their labels.

        Raises:
            ValueError, MemoryError: As in ``sample``; a ``NonFiniteSamplesError`` holds finite images of its own batch.

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
        denoiser = self._select_denoiser(use_ema)
        request = SamplingRequest.create(denoiser, num_samples, class_labels, guidance_scale, seed, first, noise)
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        draw = _BatchGenerator(denoiser, request, _resolve_sampler(sampler, denoiser), guidance, self.device)

        def batches() -> Iterator[SampleBatch]:
            with _progress_bar(num_samples, show_progress) as advance:
                parts = batches_that_fit(lambda part: draw(part, advance), num_samples, batch_size, batch_size_name)
                for _, batch in parts:
                    yield batch

        return batches()

    def _select_denoiser(self, use_ema: bool) -> Denoiser:
        if not use_ema and self.model.weights == "ema":
            warnings.warn(
                "use_ema=False has no effect: the model itself holds the averaged weights of its checkpoint; "
                "load_denoiser(…, use_ema=False) loads the raw weights",
                ConfigWarning,
                stacklevel=4,
            )
        return self._denoiser_for(use_ema)

    def _denoiser_for(self, use_ema: bool) -> Denoiser:
        return self.ema if use_ema and self.ema is not None else self.model

    def _warn_about_untrained_guidance(self, use_ema: bool, scale: float | Sequence[float] | Tensor | None) -> None:
        denoiser = self._denoiser_for(use_ema)
        if denoiser.label_dropout == 0 and guided(denoiser, scale) is not denoiser:
            warnings.warn(
                "guidance_scale needs an unconditional estimate, which this model was never trained for "
                "(model.conditioning.class_dropout_prob = 0): 1 is the plain conditional model",
                ConfigWarning,
                stacklevel=3,
            )


class _BatchGenerator:
    """Generate any slice of the images of a request.

    Raises:
        ValueError: The sampler does not support the noise process.
    """

    def __init__(
        self, denoiser: Denoiser, request: SamplingRequest, sampler: Sampler, guidance: Guidance, device: torch.device
    ) -> None:
        self.denoiser, self.request, self.sampler, self.guidance = denoiser, request, sampler, guidance
        self.device = device
        self.levels = sampler.levels(denoiser.schedule)

    def __call__(self, part: slice, advance: Callable[[float], None]) -> SampleBatch:
        """Generate the images of a slice; ``advance`` is called with the number of images done so far."""
        denoiser, device, request = self.denoiser, self.device, self.request
        count, first = part.stop - part.start, request.first + part.start
        label = None if request.labels is None else request.labels[part].to(device)
        denoise = guided(denoiser, request.scales[part], self.guidance)
        images, noise = request.starting_noise(part, device)
        steps = len(self.levels) - 1
        finite_check = FiniteCheck(denoiser, first, count, steps, device)
        trajectory = self.sampler.trajectory(
            lambda x, level: finite_check.check(denoise(x, level, label)), images, self.levels, noise
        )
        with eval_mode(denoiser), cache_filters(denoiser), keep_freed_memory(device), torch.no_grad():
            for step, x in enumerate(trajectory, start=1):
                images = finite_check.check(x)
                finite_check.finish_step()
                advance(part.start + count * step / steps)
        finished = finite_check.finish(images.clamp(-1, 1))
        return SampleBatch(first, finished, None if request.labels is None else request.labels[part].tolist())


def _check_model(model: object) -> Denoiser:
    if not isinstance(model, Denoiser):
        inside = getattr(model, "module", None)
        hint = ": give its .module" if isinstance(inside, Denoiser) else ""
        raise TypeError(
            f"model must be a Denoiser, as create_ddpm and load_denoiser return, got {type(model).__name__}{hint}"
        )
    return model


def _averaged_denoiser(model: Denoiser, ema: object) -> Denoiser | None:
    """Return the denoiser with averaged weights; None without ``ema``."""
    average = ema.average if isinstance(ema, EMA) else ema
    if average is None:
        return None
    if not isinstance(average, Denoiser):
        got = f"an EMA of a {type(average).__name__}" if isinstance(ema, EMA) else type(ema).__name__
        raise TypeError(f"ema must be an EMA of a Denoiser, a Denoiser with averaged weights, or None, got {got}")
    for name in ("image_shape", "num_classes"):
        expected, value = getattr(model, name), getattr(average, name)
        if value != expected:
            raise ValueError(f"ema must be of the model: its {name} is {value}, that of the model {expected}")
    return average


def _resolve_sampler(sampler: object, denoiser: Denoiser) -> Sampler:
    """Return the sampler, by default DDIM with 50 steps, or as many as the process has if that is fewer.

    Raises:
        TypeError: ``sampler`` is not a ``Sampler``.
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
def _progress_bar(images: int, show: bool) -> Iterator[Callable[[float], None]]:
    """Show a progress bar; yields a function that sets the number of images done, fractions included."""
    if not show:
        yield lambda done: None
        return
    columns = (TextColumn("sampling"), BarColumn(), MofNCompleteColumn(), TextColumn("images,"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=images)
        yield lambda done: progress.update(task, completed=done)


@contextlib.contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode inside the block, and each of its modules back into its own mode afterwards."""
    modes = {module: module.training for module in model.modules()}
    try:  # also around eval(), which a signal can interrupt halfway
        model.eval()
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
