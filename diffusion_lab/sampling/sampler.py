"""Sampling API: seeds, labels, batches, averaged weights and a progress bar around a sampler."""

from __future__ import annotations

import reprlib
import warnings
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from diffusion_lab.arguments import arguments_named, check_flag, check_integer
from diffusion_lab.denoiser import Denoiser
from diffusion_lab.ema import EMA
from diffusion_lab.faults import ConfigWarning
from diffusion_lab.guidance import PLAIN, Guidance, guided
from diffusion_lab.runtime.devices import resolve_device
from diffusion_lab.runtime.memory import batches_that_fit, explain_out_of_memory
from diffusion_lab.sampling.batches import BatchGenerator, SampleBatch
from diffusion_lab.sampling.finite_samples import NonFiniteSamplesError
from diffusion_lab.sampling.method import SamplingMethod, resolve_sampler
from diffusion_lab.sampling.progress_bar import progress_bar
from diffusion_lab.sampling.request import SamplingRequest
from diffusion_lab.shapes import Images, Labels


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
        class_labels: Sequence[int | str] | Labels | None = None,
        guidance_scale: float | Sequence[float] | Tensor | None = 0.0,
        use_ema: bool = True,
        show_progress: bool = False,
        *,
        sampler: SamplingMethod | None = None,
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
            class_labels: Class of each image, by its number or by its name in ``model.class_names``; None samples
                without labels.
            guidance_scale: Scale of classifier-free guidance, ``uncond + scale · (cond − uncond)``: one number ≥ 0, or
                one for each image. 0 and None switch guidance off, so 0 is the plain conditional model, as is 1.
            use_ema: Use the averaged weights, if there are any.
            show_progress: Show a progress bar.
            sampler: Sampling method: a ``Sampler``, the name of one, such as ``"heun"``, or a mapping with the name as
                ``type`` and its options; DDIM if None. A name without ``steps`` has 50 steps (fewer if the process has
                fewer); ``"ddpm"`` has all steps of the process.
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
            ValueError: A label is no class of the model, the model is unconditional but got labels, the number of
                labels or scales is not ``num_samples``, a number is out of bounds, there is no such sampler or option
                of it, or the noise has another shape, is not floating point or not finite. The message has the
                argument, its value and the rule. ``NonFiniteSamplesError`` if images become NaN or infinite, with the
                step, what to do, and the finished images (``indices`` and ``images``).
            TypeError: ``sampler`` or ``guidance`` is something else.
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

            With labels by name, and a sampler by name with an option:

            >>> flowers = DiffusionSampler(create_ddpm(**tiny, num_classes=2, class_names=["rose", "tulip"]))
            >>> flowers.sample(2, ["tulip", "rose"], seed=0, sampler={"type": "heun", "steps": 2}).shape
            torch.Size([2, 1, 8, 8])
            >>> flowers.sample(1, ["tulips"], sampler="heun")
            Traceback (most recent call last):
            ...
            ValueError: class_labels must be classes of the model (rose, tulip), got 'tulips' (did you mean 'tulip'?)

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
        sampler: SamplingMethod | None = None,
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
        check_integer("samples_per_class", samples_per_class, 1)
        check_integer("num_classes", num_classes, 1)
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
        class_labels: Sequence[int | str] | Labels | None = None,
        guidance_scale: float | Sequence[float] | Tensor | None = 0.0,
        use_ema: bool = True,
        show_progress: bool = False,
        *,
        sampler: SamplingMethod | None = None,
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
        denoiser = self._select_denoiser(use_ema, stacklevel=3)
        request = SamplingRequest.create(denoiser, num_samples, class_labels, guidance_scale, seed, first, noise)
        draw = self._batch_generator(denoiser, request, sampler, guidance)
        check_flag("show_progress", show_progress)
        advice = f"ask for fewer, or use sample({num_samples}, …, batch_size=…), which makes them in smaller batches"
        with (
            explain_out_of_memory(f"a batch of {num_samples} images", advice),
            progress_bar(num_samples, show_progress) as advance,
        ):
            return draw(slice(0, num_samples), advance)

    def stream(
        self,
        num_samples: int,
        class_labels: Sequence[int | str] | Labels | None = None,
        guidance_scale: float | Sequence[float] | Tensor | None = 0.0,
        use_ema: bool = True,
        show_progress: bool = False,
        *,
        sampler: SamplingMethod | None = None,
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
        denoiser = self._select_denoiser(use_ema, stacklevel=4)
        request = SamplingRequest.create(denoiser, num_samples, class_labels, guidance_scale, seed, first, noise)
        check_integer("batch_size", batch_size, 1)
        check_flag("show_progress", show_progress)
        draw = self._batch_generator(denoiser, request, sampler, guidance)

        def batches() -> Iterator[SampleBatch]:
            with progress_bar(num_samples, show_progress) as advance:
                parts = batches_that_fit(lambda part: draw(part, advance), num_samples, batch_size, batch_size_name)
                for _, batch in parts:
                    yield batch

        return batches()

    def _batch_generator(
        self, denoiser: Denoiser, request: SamplingRequest, sampler: SamplingMethod | None, guidance: Guidance
    ) -> BatchGenerator:
        if not isinstance(guidance, Guidance):
            raise TypeError(f"guidance must be a diffusion_lab.guidance.Guidance, got {reprlib.repr(guidance)}")
        method = resolve_sampler(sampler, denoiser.schedule)
        with arguments_named({"model.diffusion.num_timesteps": "the num_timesteps of the model"}):
            return BatchGenerator(denoiser, request, method, guidance, self.device)

    def _select_denoiser(self, use_ema: bool, stacklevel: int) -> Denoiser:
        check_flag("use_ema", use_ema)
        if not use_ema and self.model.weights == "ema":
            warnings.warn(
                "use_ema=False has no effect: the model itself holds the averaged weights of its checkpoint; "
                "load_denoiser(…, use_ema=False) loads the raw weights",
                ConfigWarning,
                stacklevel=stacklevel,
            )
        return self._denoiser_for(use_ema)

    def _denoiser_for(self, use_ema: bool) -> Denoiser:
        return self.ema if use_ema and self.ema is not None else self.model

    def _warn_about_untrained_guidance(self, use_ema: bool, scale: float | Sequence[float] | Tensor | None) -> None:
        denoiser = self._denoiser_for(use_ema)
        if denoiser.label_dropout == 0 and guided(denoiser, scale) is not denoiser:
            warnings.warn(
                "guidance_scale needs an unconditional estimate, which this model was never trained for "
                "(class_dropout_prob was 0): 1 is the plain conditional model",
                ConfigWarning,
                stacklevel=3,
            )


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
