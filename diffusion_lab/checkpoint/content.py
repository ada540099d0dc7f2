"""Content of a checkpoint, and the denoiser created from it."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from diffusion_lab.checkpoint.damage import damaged_error
from diffusion_lab.checkpoint.foreign import (
    DEFAULT_PREDICTION,
    ForeignParts,
    check_complete_average,
    fill_average,
    raw_weights_advice,
    with_classes,
    with_prediction,
)
from diffusion_lab.checkpoint.weights import Weights, assign_weights, load_weights
from diffusion_lab.config.model_section import ModelSettings
from diffusion_lab.config.training_section import PerformanceSettings
from diffusion_lab.config.validate import SectionT, parse_section
from diffusion_lab.console.redaction import REDACTED, holds_redacted
from diffusion_lab.create import create_denoiser
from diffusion_lab.denoiser import Denoiser
from diffusion_lab.diffusion.parameterization import PreconditionedOutput
from diffusion_lab.faults import ConfigError, ConfigWarning
from diffusion_lab.networks.options import DiTOptions, UNetOptions


@dataclass(frozen=True)
class Checkpoint:
    """Checkpoint as read from a file: weights by the denoiser's names, and metadata.

    ``weights`` are the raw weights, empty in an export of an average.
    ``ema_weights`` holds the averaged weights by their decay, the main ones first; the decay is None if the file does
    not contain it. ``metadata`` holds settings, class names, versions, commit and hashes. ``data_position`` is the
    position in the data as saved by the data module. ``foreign`` holds other values in a file of another program, None
    in files of this one.
    """

    path: Path
    weights: Weights
    ema_weights: Mapping[float | None, Weights]
    model: ModelSettings | None
    class_names: tuple[str, ...]
    step: int | None
    config: dict[str, Any] | None
    epochs_done: int | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    data_position: Mapping[str, Any] = field(default_factory=dict)
    foreign: ForeignParts | None = None

    @property
    def decays(self) -> list[float | None]:
        """Decays of the averages, the main one first."""
        return list(self.ema_weights)

    @property
    def used_mixed_precision(self) -> bool:
        """True if the run is known to have used mixed precision."""
        match self.config:
            case {"training": {"performance": {} as section}}:
                known = {name: value for name, value in section.items() if name in PerformanceSettings.model_fields}
                settings = parse_saved_section(PerformanceSettings, known, "training.performance", self.path)
                return settings.requested_precision != 32
        return False

    def denoiser(
        self,
        use_ema: bool = True,
        model: ModelSettings | None = None,
        ema_decay: float | None = None,
        trust: Collection[str] = (),
        copy: bool = True,
    ) -> Denoiser:
        """Create the denoiser, in evaluation mode on the CPU.

        Args:
            use_ema: Use the averaged weights; if there are none, warn and use the raw ones.
            model: The architecture, for files without it; the checkpoint's own takes precedence.
            ema_decay: Decay of the average to use; the main one if None.
            trust: Dotted paths of classes that may be imported because the checkpoint names them; those named in
                ``model`` may be imported as well.
            copy: Whether to copy the weights. Otherwise the denoiser takes over the memory of this checkpoint, which
                must not be used any more.

        Raises:
            ValueError: The architecture is unknown, the weights belong to another one, there is no (readable) average
                of that decay, the numbers of classes contradict each other, or only the checkpoint names the class to
                import.
        """
        settings = self.model or model
        if self.model is not None and holds_redacted(self.model.model_dump(mode="json")):
            if model is None:
                raise ValueError(
                    f"{self.path} was saved without a secret that its model section needs ({REDACTED!r} stands there): "
                    "load_denoiser(…, model=…) with the complete section"
                )
            settings = model
        if settings is None:
            raise ValueError(
                f"{self.path} holds weights but does not say of which architecture: give it in the settings "
                "(on the command line: model=… diffusion=… conditioning=…)"
            )
        self._check_custom_classes(settings, model, trust)
        settings = self.with_prediction(self.with_file_classes(settings))
        averaged = use_ema and self.has_averages()
        decay = self.select_decay(use_ema, ema_decay)
        if use_ema and not averaged:
            warnings.warn(f"{self.path} holds no EMA weights: the raw weights are used", ConfigWarning, stacklevel=2)
        chosen = self.select_weights(use_ema, decay)
        weights = fill_average(chosen, self.weights) if averaged and self.foreign else chosen
        is_own = "." not in settings.architecture.type  # others may compute with tensors when they are created
        if is_own:
            self._check_depth(settings, weights)
        with self._name_file_in_errors(), torch.random.fork_rng(devices=[]):
            denoiser = create_denoiser(settings, self.class_names, without_weights=is_own)
        self.check_input_scaling(denoiser)
        if averaged and self.foreign:
            check_complete_average(chosen, denoiser, self.path)
        if is_own:
            assign_weights(denoiser, weights, self.path, copy)
        else:
            load_weights(denoiser, weights, self.path)
        denoiser.weights = "ema" if averaged else "raw"
        return denoiser.eval()

    def with_file_classes(self, model: ModelSettings) -> ModelSettings:
        """Return the settings with the number of classes in a file of another program. Raises as ``denoiser``."""
        if self.foreign is None:
            return model
        return with_classes(model, self.foreign.num_classes, self.weights, self.path)

    def with_prediction(self, model: ModelSettings) -> ModelSettings:
        """Return the settings with a prediction: the one set by the user, else the checkpoint's, else the default.

        Raises:
            ValueError: Neither sets it, and the default is not intended for the noise process.
        """
        if self.model is None:
            return with_prediction(model, self.path)
        if model.diffusion.is_prediction_set:
            return model
        own = model.diffusion.model_copy(update={"prediction": self.model.diffusion.prediction})
        return model.model_copy(update={"diffusion": own})

    def prediction_note(self, model: ModelSettings | None) -> str | None:
        """Return a note if the prediction differs from the settings, where it is not set by the user; else None."""
        if model is None or model.diffusion.is_prediction_set:
            return None
        if self.model is not None:
            own = self.model.diffusion.prediction
            same = own == model.diffusion.prediction
            return None if same else f"model.diffusion.prediction is {own}, as in {self.path}"
        return (
            f"{self.path} does not say what its network predicts: {DEFAULT_PREDICTION} is taken; "
            "model.diffusion.prediction=v changes that"
        )

    def has_averages(self) -> bool:
        """Return whether there are averaged weights. Raises ValueError if they exist but cannot be read."""
        if self.foreign is not None and self.foreign.ema_fault is not None:
            raise ValueError(
                f"{self.path} cannot be sampled with averaged weights: {self.foreign.ema_fault}{raw_weights_advice()}"
            )
        return bool(self.ema_weights)

    @contextmanager
    def _name_file_in_errors(self) -> Iterator[None]:
        """Name the file in errors about a model that cannot be built."""
        try:
            yield
        except ValueError as error:
            raise ValueError(f"{self.path} asks for a model that cannot be built: {error}") from error

    def check_input_scaling(self, denoiser: Denoiser) -> None:
        """Raise ValueError if the network was trained on noisy images scaled differently from now.

        Before format 2 that was the case for all predictions except edm, in processes whose noise exceeds one.
        """
        last = denoiser.schedule.level(1.0)
        scaled_before = isinstance(denoiser.parameterization, PreconditionedOutput)
        if self.metadata.get("format") != 1 or scaled_before or last.alpha**2 + last.sigma**2 < 1.001:
            return
        raise ValueError(
            f"{self.path} was written before diffusion_lab scaled the input of this prediction to unit variance in a "
            f"noise process that reaches sigma = {last.sigma:g}: its network expects another scale. Train it again, or "
            "use the version of diffusion_lab that wrote it"
        )

    def _check_depth(self, settings: ModelSettings, weights: Weights) -> None:
        """Compare the number of blocks with the weights before any is created, since it could be of any size."""
        architecture = settings.architecture
        stages = architecture.stages if isinstance(architecture, UNetOptions | DiTOptions) else []
        blocks = sum(number for _, number in stages)
        if blocks > len(weights):
            raise ValueError(
                f"{self.path} holds weights of another architecture: {len(weights)} tensors, too few for "
                f"{blocks} blocks. Give the model settings that it was trained with"
            )

    def select_weights(self, use_ema: bool, decay: float | None) -> Weights:
        """Return the averaged weights of a decay, or the raw ones if requested or if there are no others.

        Raises:
            ValueError: The raw weights are requested, and the file holds only averaged ones.
        """
        if use_ema and self.ema_weights:
            return self.ema_weights[decay]
        if not self.weights:
            raise ValueError(
                f"{self.path} is an export of averaged weights, and holds no others: take them "
                "(generation.sampling.use_ema=true, no --raw), or the checkpoint that it was exported from"
            )
        return self.weights

    def select_decay(self, use_ema: bool, ema_decay: float | None) -> float | None:
        """Return the decay of the averaged weights chosen by these arguments of ``denoiser``, None for the raw ones."""
        if ema_decay is not None and not use_ema:
            raise ValueError(f"generation.sampling.ema_decay needs generation.sampling.use_ema, got {ema_decay:g}")
        if ema_decay is not None and ema_decay not in self.ema_weights:
            known = ", ".join(f"{decay:g}" for decay in self.decays if decay is not None) or "none"
            raise ValueError(
                f"generation.sampling.ema_decay must be one of the averages in {self.path} ({known}), got {ema_decay:g}"
            )
        return next(iter(self.decays), None) if use_ema and ema_decay is None else ema_decay

    @property
    def named_classes(self) -> tuple[str, ...]:
        """Dotted paths of custom classes that the checkpoint names; they are imported only if trusted."""
        types = () if self.model is None else (self.model.architecture.type, self.model.diffusion.type)
        return tuple(path for path in types if "." in path)

    def _check_custom_classes(self, own: ModelSettings, model: ModelSettings | None, trust: Collection[str]) -> None:
        """Refuse classes named only by the checkpoint: importing a class runs code, so the user must name it too."""
        for key, part in (("architecture", "network"), ("diffusion", "noise process")):
            path = getattr(own, key).type
            confirmed = path in trust or (model is not None and getattr(model, key).type == path)
            if "." in path and not confirmed:
                raise ValueError(
                    f"{self.path} names the class {path!r} for its {part}, which is imported only where you say so: "
                    f"if you trust it, load_denoiser(…, trust=[{path!r}]), on the command line trust={path}"
                )


def parse_saved_section(section: type[SectionT], values: Mapping[str, Any], key: str, path: Path) -> SectionT:
    """Parse a section of the settings in a checkpoint. Raises ValueError with the path and all faults in it."""
    try:
        return parse_section(section, values, key)
    except ConfigError as error:
        raise damaged_error(path, f"is a damaged checkpoint: {error}") from error
