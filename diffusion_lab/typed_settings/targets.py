"""Objects of custom classes: a dotted path, or a mapping with ``_target_`` and the arguments of the class, as in Hydra.

Only the user's own settings create such objects. Checkpoints hold these entries as well, but nothing imports a class
because a checkpoint names it.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from inspect import Parameter
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from diffusion_lab.faults import ConfigError, Fault, closest
from diffusion_lab.runtime.import_class import load_class
from diffusion_lab.typed_settings.class_options import signature_of
from diffusion_lab.typed_settings.section import DOTTED_PATH, NameOrPath
from diffusion_lab.typed_settings.settings_reader import SettingsReader

TARGET = "_target_"
"""Key of the dotted path in a mapping; the other keys are arguments."""


class Target(NameOrPath):
    """Annotation of an entry that describes an object: a dotted path, or a mapping with ``_target_`` and arguments.

    A mapping without arguments is normalized to its path, so that equal settings are equal.

    Args:
        names: Names that are accepted besides.
    """

    def check(self, value: Any) -> Any:
        """Return a valid entry. Raises PydanticCustomError for any other."""
        if isinstance(value, Mapping):
            path = value.get(TARGET)
            if isinstance(path, str) and DOTTED_PATH.fullmatch(path) and all(map(_is_argument, value)):
                return dict(value) if len(value) > 1 else path
        elif isinstance(value, str) and (value in self.names or DOTTED_PATH.fullmatch(value)):
            return value
        choices = [*self.names, "the dotted path of a class (my_lab.module.Name)"]
        rule = "must be {choices}, or a mapping of _target_, such a path, and arguments of the class by name"
        suggestion = closest(value, self.names) if isinstance(value, str) else None
        raise PydanticCustomError("choice", rule, {"choices": ", ".join(choices), "suggestion": suggestion})

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.check)

    def __get_pydantic_json_schema__(self, _: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        path = {"type": "string", "format": "dotted-path", "pattern": f"^{DOTTED_PATH.pattern}$"}
        mapping = {"type": "object", "properties": {TARGET: path}, "required": [TARGET]}
        names = [{"type": "string", "enum": list(self.names)}] if self.names else []
        return {"anyOf": [*names, path, mapping]}


def _is_argument(name: object) -> bool:
    return isinstance(name, str) and name.isidentifier()


def split_target(entry: str | Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the dotted path and the arguments of an entry.

    >>> split_target({"_target_": "my_lab.Score", "count": 16})
    ('my_lab.Score', {'count': 16})
    """
    if isinstance(entry, str):
        return entry, {}
    arguments = dict(entry)
    return arguments.pop(TARGET), arguments


def is_target(value: object) -> bool:
    """Return whether an argument describes an object in turn."""
    return isinstance(value, Mapping) and TARGET in value


@dataclass(frozen=True)
class Kind:
    """Rules for the objects of one key.

    Base classes are given by their dotted path, since importing Lightning takes longer than checking a file.

    Args:
        key: Dotted key that holds one entry or a list of them.
        base: Class that they must derive from.
        public_base: The same class as users import it.
        refused: Classes that they must not derive from, with the reason and what to use instead.
        names: Names of built-in choices.
        filled: Arguments that the run fills in if they are not given and the class has them.
    """

    key: str
    base: str
    public_base: str
    refused: Mapping[str, str] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    filled: tuple[str, ...] = ()

    def entries(self, tree: SettingsReader) -> Iterator[tuple[str, str | Mapping[str, Any]]]:
        """Yield the key and the value of each entry that describes an object."""
        value = tree[self.key]
        entries = {f"{self.key}[{index}]": entry for index, entry in enumerate(value)} if _is_list(value) else {}
        for key, entry in (entries or {self.key: value}).items():
            if (isinstance(entry, str) and entry not in self.names) or is_target(entry):
                yield key, entry


def _is_list(value: object) -> bool:
    return isinstance(value, list | tuple)


_CALLBACKS = "lightning.pytorch.callbacks"
KINDS = (
    Kind(
        "training.callbacks",
        f"{_CALLBACKS}.callback.Callback",
        "lightning.pytorch.Callback",
        {
            f"{_CALLBACKS}.checkpoint.Checkpoint": "checkpoints are saved as training.checkpointing says",
            f"{_CALLBACKS}.progress.progress_bar.ProgressBar": "the run shows its own progress",
            f"{_CALLBACKS}.gradient_accumulation_scheduler.GradientAccumulationScheduler": (
                "use training.accumulate_batches"
            ),
            f"{_CALLBACKS}.batch_size_finder.BatchSizeFinder": "use data.loading.batch_size",
            f"{_CALLBACKS}.lr_finder.LearningRateFinder": "use training.optimizer.learning_rate",
        },
    ),
    Kind(
        "training.profiler",
        "lightning.pytorch.profilers.profiler.Profiler",
        "lightning.pytorch.profilers.Profiler",
        names=("simple", "advanced", "pytorch"),
        filled=("dirpath", "filename"),
    ),
    Kind(
        "logger.backends",
        "lightning.pytorch.loggers.logger.Logger",
        "lightning.pytorch.loggers.Logger",
        {
            "lightning.pytorch.loggers.wandb.WandbLogger": "use logger=wandb, which survives failures of W&B",
            "lightning.pytorch.loggers.tensorboard.TensorBoardLogger": "use logger=tensorboard",
        },
        names=("wandb", "tensorboard"),
        filled=("save_dir",),
    ),
)
"""All keys whose entries describe objects."""


def check_targets(tree: SettingsReader) -> Iterator[Fault]:
    """Yield the faults of entries that describe objects: each class is imported, and compared with the arguments."""
    if tree["mode"] != "train":
        return
    for kind in KINDS:
        if tree.is_faulty(kind.key):
            continue
        for key, entry in kind.entries(tree):
            yield from _faults_of_entry(key, entry, kind)


def _faults_of_entry(key: str, entry: str | Mapping[str, Any], kind: Kind | None) -> Iterator[Fault]:
    path, arguments = split_target(entry)
    try:
        cls = load_class(path, key)
    except ConfigError as error:
        yield from error.faults
        return
    if kind is not None:
        yield from _faults_of_class(key, path, cls, kind)
    if inspect.isabstract(cls):
        missing = ", ".join(sorted(cls.__abstractmethods__))
        yield Fault(key, f"must be a class that can be instantiated; this one is abstract: {missing}", path)
    filled = kind.filled if kind is not None else ()
    yield from _faults_of_arguments(key, path, cls, arguments, filled)
    for name, value in arguments.items():
        if is_target(value):
            yield from _faults_of_entry(f"{key}.{name}", value, None)


def _faults_of_class(key: str, path: str, cls: type[Any], kind: Kind) -> Iterator[Fault]:
    bases = [f"{base.__module__}.{base.__qualname__}" for base in cls.__mro__]
    if kind.base not in bases:
        twin = kind.base.replace("lightning.pytorch", "pytorch_lightning")
        advice = " (this one derives from that of pytorch_lightning, another package)" if twin in bases else ""
        yield Fault(key, f"must be a class derived from {kind.public_base}{advice}", path)
    for base, reason in kind.refused.items():
        if base in bases:
            yield Fault(key, f"must not be a {base.rpartition('.')[2]}: {reason}", path)


def _faults_of_arguments(
    key: str, path: str, cls: type[Any], arguments: Mapping[str, Any], filled: Collection[str]
) -> Iterator[Fault]:
    signature = signature_of(cls)
    for name, value in arguments.items():
        try:
            signature.bind_partial(**{name: value})
        except TypeError:
            similar = closest(name, signature.parameters.keys() - arguments.keys())
            yield Fault(f"{key}.{name}", f"{path} takes no such argument", value, similar and f"{key}.{similar}")
    for name, parameter in signature.parameters.items():
        needs_value = parameter.default is Parameter.empty
        if needs_value and parameter.kind in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY):
            if name not in arguments and name not in filled:
                example = f"{{{TARGET}: {path}, {name}: VALUE}}"
                yield Fault(f"{key}.{name}", f"required by {path}, but missing (such as {example})")
        elif needs_value and parameter.kind == Parameter.POSITIONAL_ONLY:
            yield Fault(key, f"must take {name} by name, not only by position", path)
