"""What a checkpoint holds, and the denoiser that is made of it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from diffusion_lab.checkpoint.explanation import check_explanation
from diffusion_lab.checkpoint.export import EXPORT_SUFFIX, read_export
from diffusion_lab.checkpoint.files import find_checkpoint
from diffusion_lab.checkpoint.tensors import load_tensors, opened
from diffusion_lab.config.faults import ConfigError
from diffusion_lab.config.model_section import ModelSettings
from diffusion_lab.config.training_section import EmaSettings, PerformanceSettings
from diffusion_lab.config.validate import SectionT, parse_section
from diffusion_lab.create import create_denoiser, weight_shapes
from diffusion_lab.denoiser import Denoiser
from diffusion_lab.diffusion.parameterization import PreconditionedOutput
from diffusion_lab.redaction import REDACTED, holds_redacted

ORDER = "ImageDataModule"
"""Key of the place in the data, which the trainer calls by the class of the data module."""

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as read: weights by the denoiser's own names, and what explains them.

    ``weights`` are the raw ones, none in an export of an average.
    ``ema_weights`` holds the averaged weights by their decay, the main ones first; None is the decay of averages in a
    file that does not tell it. ``about`` is all that the writer told: settings, class names, versions, commit, hashes;
    ``order`` is the place in the data, as the data module that saved it tells it.
    """

    path: Path
    weights: Weights
    ema_weights: Mapping[float | None, Weights]
    model: ModelSettings | None
    class_names: tuple[str, ...]
    step: int | None
    config: dict[str, Any] | None
    epochs_done: int | None = None
    about: Mapping[str, Any] = field(default_factory=dict)
    order: Mapping[str, Any] = field(default_factory=dict)

    @property
    def decays(self) -> list[float | None]:
        """The decays of the averages, the main one first."""
        return list(self.ema_weights)

    @property
    def trained_in_less_than_32_bits(self) -> bool:
        """Whether the run computed in mixed precision, as far as the file tells."""
        match self.config:
            case {"training": {"performance": {} as section}}:
                known = {name: value for name, value in section.items() if name in PerformanceSettings.model_fields}
                found = _section(PerformanceSettings, known, "training.performance", self.path)
                return found.wanted_precision != 32
        return False

    def denoiser(
        self,
        use_ema: bool = True,
        model: ModelSettings | None = None,
        ema_decay: float | None = None,
        trust: Collection[str] = (),
    ) -> Denoiser:
        """Build the denoiser, in evaluation mode on the CPU.

        Args:
            use_ema: Take the averaged weights; warns and takes the raw ones where there are none.
            model: The architecture, for files that do not tell it; the checkpoint's own wins.
            ema_decay: Which of the averages, by its decay; the main one where None.
            trust: Dotted paths of classes that may be imported because the checkpoint names them; those that
                ``model`` names may be as well.

        Raises:
            ValueError: Where no architecture is known, the weights belong to another one, there is no average of that
                decay, or only the checkpoint names the class to import.
        """
        settings = self.model or model
        if self.model is not None and holds_redacted(self.model.model_dump(mode="json")):
            if model is None:
                raise ValueError(
                    f"{self.path} was saved without a secret that its model section needs ({REDACTED!r} stands there): "
                    "load_denoiser(…, model=…) with the whole section"
                )
            settings = model
        if settings is None:
            raise ValueError(
                f"{self.path} holds weights but does not say of which architecture: give it in the settings "
                "(sample.py: model=… diffusion=… conditioning=…)"
            )
        self._refuse_foreign_classes(settings, model, trust)
        decay = self.chosen_decay(use_ema, ema_decay)
        if use_ema and not self.ema_weights:
            warnings.warn(f"{self.path} holds no EMA weights: the raw weights are used", stacklevel=2)
        weights = self.chosen_weights(use_ema, decay)
        foreign = "." in settings.architecture.type + settings.diffusion.type  # may draw what no checkpoint holds
        if "." not in settings.architecture.type:
            self._refuse_other_shapes(settings, weights)
        with self._named(), torch.random.fork_rng(devices=[]), nullcontext() if foreign else _WithoutDrawing():
            denoiser = create_denoiser(settings, self.class_names)
        self.refuse_other_inputs(denoiser)
        load_weights(denoiser, weights, self.path)
        return denoiser.eval()

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Name the file where its settings ask for a model that cannot be built."""
        try:
            yield
        except ValueError as error:
            raise ValueError(f"{self.path} asks for a model that cannot be built: {error}") from error

    def refuse_other_inputs(self, denoiser: Denoiser) -> None:
        """Raise ValueError where the network of the checkpoint saw noisy images of another scale than this one does.

        Until format 2 that was so for all predictions but edm, in processes whose noise goes beyond one.
        """
        last = denoiser.schedule.level(1.0)
        scaled_before = isinstance(denoiser.parameterization, PreconditionedOutput)
        if self.about.get("format") != 1 or scaled_before or last.alpha**2 + last.sigma**2 < 1.001:
            return
        raise ValueError(
            f"{self.path} was written before diffusion_lab scaled the input of this prediction to unit variance in a "
            f"noise process that reaches sigma = {last.sigma:g}: its network knows other numbers. Train it again, or "
            "use the version of diffusion_lab that wrote it"
        )

    def _refuse_other_shapes(self, settings: ModelSettings, weights: Weights) -> None:
        """Compare the weights with the architecture before memory is taken for it: the settings may ask for any."""
        architecture = settings.architecture
        blocks = architecture.num_res_blocks * len(architecture.channel_multipliers)
        if blocks > len(weights):
            raise ValueError(
                f"{self.path} holds weights of another architecture: {len(weights)} tensors, too few for "
                f"{blocks} blocks. Give the model settings that it was trained with"
            )
        with self._named(), _WithoutDrawing():
            shapes = weight_shapes(settings)
        _refuse_other_architecture(shapes, weights, self.path)

    def chosen_weights(self, use_ema: bool, decay: float | None) -> Weights:
        """Return the averaged weights of a decay, the raw ones where there are none or they are asked for.

        Raises:
            ValueError: The raw ones are asked for, and the file holds averaged ones alone.
        """
        if use_ema and self.ema_weights:
            return self.ema_weights[decay]
        if not self.weights:
            raise ValueError(
                f"{self.path} is an export of averaged weights, and holds no others: take them "
                "(generation.sampling.use_ema=true, no --raw), or the checkpoint that it was exported from"
            )
        return self.weights

    def chosen_decay(self, use_ema: bool, ema_decay: float | None) -> float | None:
        """The decay of the averaged weights that these arguments of ``denoiser`` choose, None for the raw ones."""
        if ema_decay is not None and not use_ema:
            raise ValueError(f"generation.sampling.ema_decay needs generation.sampling.use_ema, got {ema_decay:g}")
        if ema_decay is not None and ema_decay not in self.ema_weights:
            there = ", ".join(f"{decay:g}" for decay in self.decays if decay is not None) or "none that it tells"
            raise ValueError(
                f"generation.sampling.ema_decay must be one of the averages in {self.path} ({there}), got {ema_decay:g}"
            )
        return next(iter(self.decays), None) if use_ema and ema_decay is None else ema_decay

    def _refuse_foreign_classes(self, own: ModelSettings, model: ModelSettings | None, trust: Collection[str]) -> None:
        """Importing a class runs code, so the path of one is taken from the user alone, never from a file."""
        for key, part in (("architecture", "network"), ("diffusion", "noise process")):
            path = getattr(own, key).type
            confirmed = path in trust or (model is not None and getattr(model, key).type == path)
            if "." in path and not confirmed:
                raise ValueError(
                    f"{self.path} names the class {path!r} for its {part}, which is imported only where you say so: "
                    f"if you trust it, load_denoiser(…, trust=[{path!r}]), sample.py trust={path}"
                )


class _WithoutDrawing(TorchFunctionMode):
    """Leaves out the drawing of initial weights, which are soon overwritten; it takes longer than reading them."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func.__name__.endswith(("uniform_", "normal_")):  # of tensors, and torch.nn.init.kaiming_uniform_ and so on
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def load_denoiser(
    path: str | Path,
    use_ema: bool = True,
    device: str | torch.device = "cpu",
    model: ModelSettings | None = None,
    ema_decay: float | None = None,
    trust: Collection[str] = (),
) -> Denoiser:
    """Load a denoiser from a checkpoint, an export, or a run folder (its best checkpoint, else its last).

    Nothing but the file is needed: it tells the architecture, the diffusion process and the classes. No code in it
    is run.

    Args:
        path: Checkpoint file, ``.safetensors`` export, or run folder.
        use_ema: Take the averaged weights.
        device: Where to put the denoiser.
        model: The architecture, for plain state dicts.
        ema_decay: Which of the averages, by its decay; the main one where None.
        trust: Dotted paths of your own classes that may be imported because the checkpoint names them.

    Raises:
        FileNotFoundError: Nothing is there.
        ValueError: It is no checkpoint or a damaged one, holds no weights, or none of that decay, or weights of
            another architecture, or names a class that is not trusted.
    """
    return read_checkpoint(find_checkpoint(path)).denoiser(use_ema, model, ema_decay, trust).to(device)


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint of ours, an export, a plain state dict, or one under ``model_state_dict`` (``ema_state_dict``).

    Only tensors and plain containers are read; a file that asks for code to be run is refused.

    Raises:
        ValueError: The file is no checkpoint, or holds no weights.
    """
    path = Path(path)
    if path.suffix == EXPORT_SUFFIX:
        return _from_export(path)
    content = load_tensors(path)
    about = content.get("diffusion_lab")
    if isinstance(about, dict):
        return _from_own_format(path, content, about)
    weights = content.get("model_state_dict", content.get("state_dict", content))
    averaged = content.get("ema_state_dict")
    for found in (weights, averaged):
        if found is not None and not _are_weights(found):
            raise ValueError(f"{path} holds no weights: expected a state dict, or a dict with model_state_dict")
    return Checkpoint(
        path=path,
        weights=_by_denoiser_names(weights),
        ema_weights={} if averaged is None else {None: _by_denoiser_names(averaged)},
        model=None,
        class_names=(),
        step=None,
        config=None,
    )


def load_weights(denoiser: Denoiser, weights: Weights, path: Path) -> None:
    """Load weights into a denoiser, all of them or none.

    Raises:
        ValueError: Listing what is missing, foreign or of another shape.
    """
    own = denoiser.state_dict()
    _refuse_other_architecture({name: tensor.shape for name, tensor in own.items()}, weights, path)
    denoiser.load_state_dict(dict(weights))


def _refuse_other_architecture(own: Mapping[str, torch.Size], weights: Weights, path: Path) -> None:
    """Raise ValueError unless weights have the names and shapes of ``own``, and are floating-point numbers."""
    faults = [f"missing {name}" for name in own if name not in weights]
    faults += [f"unknown {name}" for name in weights if name not in own]
    faults += [
        f"{name} is {tuple(weights[name].shape)}, the model's is {tuple(shape)}"
        for name, shape in own.items()
        if name in weights and weights[name].shape != shape
    ]
    faults += [f"{name} is of {weight.dtype}" for name, weight in weights.items() if not weight.is_floating_point()]
    if faults:
        more = f" and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise ValueError(
            f"{path} holds weights of another architecture: {'; '.join(faults[:5])}{more}. "
            "Give the model settings that it was trained with"
        )


def _from_own_format(path: Path, content: dict[str, Any], about: dict[str, Any]) -> Checkpoint:
    check_explanation(about, path)
    state = content.get("state_dict")
    state = state if _are_weights(state) else {}
    weights = _under(state, "denoiser.")
    if not weights:
        raise ValueError(f"{path} holds no weights of a denoiser: it was not written whole, or not by a training run")
    return _explained(path, weights, _averages(state, about["config"], path), about, content.get(ORDER))


def _from_export(path: Path) -> Checkpoint:
    opened(path).close()  # refuses what is no file, or too large to be read
    weights, about = read_export(path)
    check_explanation(about, path)
    if about.get("averaged"):
        return _explained(path, {}, {about.get("ema_decay"): weights}, about)
    return _explained(path, weights, {}, about)


def _explained(
    path: Path,
    weights: Weights,
    averages: Mapping[float | None, Weights],
    about: Mapping[str, Any],
    order: object = None,
) -> Checkpoint:
    return Checkpoint(
        path=path,
        weights=weights,
        ema_weights=averages,
        model=_section(ModelSettings, about["config"]["model"], "model", path),
        class_names=tuple(about["class_names"]),
        step=about["step"],
        config=about["config"],
        epochs_done=about.get("epochs_done"),
        about=about,
        order=order if isinstance(order, dict) else {},
    )


def _averages(state: Weights, config: dict[str, Any], path: Path) -> dict[float | None, Weights]:
    """The averaged weights that there are, by the decays that the settings tell."""
    decays: list[float | None] = [None]
    match config:
        case {"training": {"ema": {} as section}}:
            known = {name: value for name, value in section.items() if name in EmaSettings.model_fields}
            ema = _section(EmaSettings, known, "training.ema", path)
            decays = [ema.decay, *ema.further_decays]
    prefixes = ["ema.average.", *(f"ema.further.{index}." for index in range(len(decays) - 1))]
    found = {decay: _under(state, prefix) for decay, prefix in zip(decays, prefixes, strict=True)}
    return {decay: weights for decay, weights in found.items() if weights}


def _section(section: type[SectionT], values: Mapping[str, Any], key: str, path: Path) -> SectionT:
    """A section of the settings in a checkpoint. Raises ValueError with all that is wrong in it, and the path."""
    try:
        return parse_section(section, values, key)
    except ConfigError as error:
        raise ValueError(f"{path} is a damaged checkpoint: {error}") from error


def _under(state: Weights, prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def _are_weights(found: object) -> TypeGuard[dict[str, Tensor]]:
    return isinstance(found, dict) and bool(found) and all(isinstance(value, Tensor) for value in found.values())


def _by_denoiser_names(weights: Weights) -> Weights:
    """Names of a denoiser for names of a denoiser or of its network alone."""
    if all(name.startswith("network.") for name in weights):
        return weights
    return {f"network.{name}": tensor for name, tensor in weights.items()}
