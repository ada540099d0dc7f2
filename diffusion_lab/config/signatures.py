"""Check that a custom class, named by its dotted path, accepts the arguments in the settings.

This imports the class, which runs code. It is only for the user's own settings and never for the content of a
checkpoint: ``parse_section``, which reads the model of a checkpoint, does not use it.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from inspect import Parameter
from typing import Any

from diffusion_lab.config.model_section import ArchitectureSettings
from diffusion_lab.config.optimizer_section import ALL_OPTIMIZER_OPTIONS
from diffusion_lab.config.scheduler_section import ALL_SCHEDULER_OPTIONS, SchedulerSettings
from diffusion_lab.config.schema import CHOICES
from diffusion_lab.config.settings_reader import SettingsReader, Unreadable
from diffusion_lab.faults import ConfigError, Fault, closest, sibling_key
from diffusion_lab.runtime.import_class import load_class

NETWORK_ARGUMENTS = [name for name in ArchitectureSettings.model_fields if name not in ("type", "image_size")]


@dataclass(frozen=True)
class Call:
    """Description of how the project calls the classes of a section.

    Args:
        section: Dotted key of the section. Its ``type`` names the class, its further keys are arguments.
        first: Description of the positional argument, "" for none.
        passed: Keyword arguments passed by the project, each with the key that it comes from.
        if_accepted: Arguments of ``passed`` that are passed only to classes that accept them.
        by_step: Further keyword arguments for a class with ``by_step = True``.
        options: Fields of the section that become arguments unless they are null.
        built_in_options: Options of the built-in types, which may remain from the file of a group.
        only_training: Whether the section is only read in training.
    """

    section: str
    first: str = ""
    passed: Mapping[str, str] = field(default_factory=dict)
    if_accepted: Collection[str] = ()
    by_step: Mapping[str, str] = field(default_factory=dict)
    options: Collection[str] = ()
    built_in_options: Collection[str] = ()
    only_training: bool = True

    @property
    def type_key(self) -> str:
        return f"{self.section}.type"

    def arguments_for(self, cls: type[Any], accepted: Collection[str]) -> dict[str, str]:
        """Return the keyword arguments that the project passes to a class with the arguments ``accepted``."""
        passed = {name: key for name, key in self.passed.items() if name not in self.if_accepted or name in accepted}
        return passed | (dict(self.by_step) if getattr(cls, "by_step", False) else {})

    def options_in(self, tree: SettingsReader) -> dict[str, Any]:
        """Return the arguments set in the section itself."""
        fields = tree.schema_of(self.section).model_fields
        return {
            name: value
            for name, value in tree.section(self.section).items()
            if name not in fields or (name in self.options and value is not None)
        }


@dataclass(frozen=True)
class Signature:
    """Arguments of a class for a call that passes the first one by position, or none.

    Args:
        positional: Name of the argument that is passed by position; "*" if it is one of ``*args``.
        by_name: Arguments that can be passed by name.
        required: Arguments without a default, except for those passed by position.
        accepts_any: Whether the class accepts ``**kwargs``.
    """

    positional: tuple[str, ...]
    by_name: tuple[str, ...]
    required: tuple[str, ...]
    accepts_any: bool

    @classmethod
    def from_class(cls, called: type[Any], fills_first: bool) -> Signature:
        """Read the signature of a class. Raises ValueError for a class not written in Python, without a signature."""
        parameters = inspect.signature(called).parameters.values()
        kinds = {parameter.kind for parameter in parameters}
        single = [each for each in parameters if each.kind not in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)]
        first = [each.name for each in single if each.kind != Parameter.KEYWORD_ONLY][:fills_first]
        others = [each for each in single if each.name not in first]
        return cls(
            positional=tuple(first) or ("*",) * (Parameter.VAR_POSITIONAL in kinds),
            by_name=tuple(each.name for each in others if each.kind != Parameter.POSITIONAL_ONLY),
            required=tuple(each.name for each in others if each.default is Parameter.empty),
            accepts_any=Parameter.VAR_KEYWORD in kinds,
        )

    def accepts(self, name: str) -> bool:
        """Return whether the argument can be passed by name."""
        return self.accepts_any or name in self.by_name


# Each describes the code that creates the objects; tests call both with the same classes.
CALLS = (
    Call(  # create.py
        "model.architecture",
        passed={
            **{name: f"model.architecture.{name}" for name in NETWORK_ARGUMENTS},
            "num_classes": "model.conditioning.num_classes",
        },
        only_training=False,
    ),
    Call("model.diffusion", only_training=False),  # create.py
    Call(  # run_images/sources.py
        "data",
        passed={"image_size": "model.architecture.image_size", "channels": "model.architecture.in_channels"},
    ),
    Call(  # training/optimizers.py
        "training.optimizer",
        first="the parameters",
        passed={
            "lr": "training.optimizer.learning_rate",
            "weight_decay": "training.optimizer.weight_decay",
            "betas": "training.optimizer.betas",
        },
        if_accepted=("betas",),
        options=ALL_OPTIMIZER_OPTIONS,
    ),
    Call(  # training/lr_schedules.py
        "training.scheduler",
        first="the optimizer",
        by_step={"total_steps": "training.epochs"},
        options=SchedulerSettings.model_fields.keys() - {"type"},
        built_in_options=ALL_SCHEDULER_OPTIONS,
    ),
    *(Call(each.KEY, built_in_options=each.all_options(), only_training=each.KEY != "sampler") for each in CHOICES),
)


def check_custom_classes(tree: SettingsReader) -> Iterator[Fault]:
    """Yield the faults of custom classes: each is imported and compared with its call."""
    for call in CALLS:
        try:
            yield from _faults_in(call, tree)
        except Unreadable:
            continue  # the key in question has been reported already


def _faults_in(call: Call, tree: SettingsReader) -> Iterator[Fault]:
    if call.only_training and tree["mode"] != "train":
        return
    path = tree[call.type_key]
    if path is None or "." not in path:
        return
    try:
        cls = load_class(path, call.type_key)
        signature = Signature.from_class(cls, fills_first=bool(call.first))
    except ConfigError as error:
        yield from error.faults
        return
    except ValueError:
        return
    if inspect.isabstract(cls):
        missing = ", ".join(sorted(cls.__abstractmethods__))
        yield Fault(call.type_key, f"must be a class that can be instantiated; this one is abstract: {missing}", path)
    options, passed = call.options_in(tree), call.arguments_for(cls, signature.by_name)
    fields = tree.schema_of(call.section).model_fields.keys() - set(call.options)
    known = fields | (set(signature.by_name) - passed.keys())
    for name, value in options.items():
        yield from _faults_of_option(call, name, value, path, signature, passed, known)
    for name in signature.required:
        if name in signature.by_name and name not in options and name not in passed:
            yield Fault(f"{call.section}.{name}", f"required by {path}, but missing")
    yield from _faults_of_class(call, path, signature, passed)


def _faults_of_class(call: Call, path: str, signature: Signature, passed: Mapping[str, str]) -> Iterator[Fault]:
    """Yield the faults of the class itself, which no option can fix."""
    if call.first and not signature.positional:
        yield Fault(call.type_key, f"must take {call.first} as its first argument", path)
    unaccepted = [name for name in passed if not signature.accepts(name)]
    if unaccepted:
        rule = f"must take {', '.join(unaccepted)} (or **others), which are passed to every class of {call.section}"
        yield Fault(call.type_key, rule, path)
    unreachable = [name for name in signature.required if name not in signature.by_name]
    if unreachable:
        yield Fault(call.type_key, f"must take {', '.join(unreachable)} by name, not only by position", path)


def _faults_of_option(
    call: Call,
    name: str,
    value: object,
    path: str,
    signature: Signature,
    passed: Mapping[str, str],
    known: Collection[str],
) -> Iterator[Fault]:
    key = f"{call.section}.{name}"
    if name in passed:
        yield Fault(key, f"{path} receives this from {passed[name]}; leave it out", value)
    elif name in signature.positional:
        yield Fault(key, f"{path} receives {call.first} for this; leave it out", value)
    elif not signature.accepts(name):
        rule = f"{path} takes no such argument"
        if name in call.built_in_options:  # probably not typed, but from the file of the group
            yield Fault(key, f"{rule}; leave it out (command line: '~{key}')", value)
        else:
            yield Fault(key, rule, value, sibling_key(key, closest(name, known)))
