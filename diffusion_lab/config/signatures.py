"""Whether the user's own class, named by its dotted path, takes the arguments that the settings have for it.

This imports the class, which runs code. So it is for a tree of the user's own and never for what a checkpoint
says: ``parse_section``, which reads the model of a checkpoint, does not come here.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from inspect import Parameter
from typing import Any

from diffusion_lab.config.faults import ConfigError, Fault, closest, sibling_key
from diffusion_lab.config.import_class import load_class
from diffusion_lab.config.model_section import ArchitectureSettings
from diffusion_lab.config.optimizer_section import ALL_OPTIMIZER_OPTIONS
from diffusion_lab.config.scheduler_section import ALL_SCHEDULER_OPTIONS, SchedulerSettings
from diffusion_lab.config.schema import CHOICES
from diffusion_lab.config.settings_reader import SettingsReader, Unreadable

NETWORK_ARGUMENTS = [name for name in ArchitectureSettings.model_fields if name not in ("type", "image_size")]


@dataclass(frozen=True)
class Call:
    """How the project calls the classes of a section.

    Args:
        section: Dotted key of the section. Its ``type`` names the class, its further keys are arguments.
        first: What is handed over by position, "" for nothing.
        given: Arguments that the project hands over by name, and the key that each comes from.
        where_taken: Those among ``given`` that only a class with such an argument gets.
        by_step: Further ones for a class that says ``by_step = True`` of itself.
        options: Fields of the section that become arguments where they are not null.
        of_built_in: Options of the built-in types, which may be left over from the file of a group.
        only_train: Whether the section is read in training alone.
    """

    section: str
    first: str = ""
    given: Mapping[str, str] = field(default_factory=dict)
    where_taken: Collection[str] = ()
    by_step: Mapping[str, str] = field(default_factory=dict)
    options: Collection[str] = ()
    of_built_in: Collection[str] = ()
    only_train: bool = True

    @property
    def type_key(self) -> str:
        return f"{self.section}.type"

    def given_to(self, cls: type[Any], takes: Collection[str]) -> dict[str, str]:
        """What the project hands over by name to a class that takes arguments of these names."""
        given = {name: key for name, key in self.given.items() if name not in self.where_taken or name in takes}
        return given | (dict(self.by_step) if getattr(cls, "by_step", False) else {})

    def options_in(self, tree: SettingsReader) -> dict[str, Any]:
        """The arguments that stand in the section itself."""
        fields = tree.schema_of(self.section).model_fields
        return {
            name: value
            for name, value in tree.section(self.section).items()
            if name not in fields or (name in self.options and value is not None)
        }


@dataclass(frozen=True)
class Signature:
    """The arguments of a class, as a call sees them that fills the first one by position, or none.

    Args:
        filled: The name of the argument that is filled by position; "*" where it is one of ``*args``.
        by_name: Those that can be given by name.
        required: Those without a default, apart from what is filled.
        takes_any: Whether there is a ``**kwargs``.
    """

    filled: tuple[str, ...]
    by_name: tuple[str, ...]
    required: tuple[str, ...]
    takes_any: bool

    @classmethod
    def of(cls, called: type[Any], fills_first: bool) -> Signature:
        """Raises ValueError for a class that is not written in Python and has no signature."""
        parameters = inspect.signature(called).parameters.values()
        kinds = {parameter.kind for parameter in parameters}
        single = [each for each in parameters if each.kind not in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)]
        first = [each.name for each in single if each.kind != Parameter.KEYWORD_ONLY][:fills_first]
        others = [each for each in single if each.name not in first]
        return cls(
            filled=tuple(first) or ("*",) * (Parameter.VAR_POSITIONAL in kinds),
            by_name=tuple(each.name for each in others if each.kind != Parameter.POSITIONAL_ONLY),
            required=tuple(each.name for each in others if each.default is Parameter.empty),
            takes_any=Parameter.VAR_KEYWORD in kinds,
        )

    def takes(self, name: str) -> bool:
        """Whether the argument can be given by name."""
        return self.takes_any or name in self.by_name


# Each says what the code does that makes the objects; tests call both with the same classes.
CALLS = (
    Call(  # create.py
        "model.architecture",
        given={
            **{name: f"model.architecture.{name}" for name in NETWORK_ARGUMENTS},
            "num_classes": "model.conditioning.num_classes",
        },
        only_train=False,
    ),
    Call("model.diffusion", only_train=False),  # create.py
    Call(  # run_images/sources.py
        "data",
        given={"image_size": "model.architecture.image_size", "channels": "model.architecture.in_channels"},
    ),
    Call(  # training/optimizers.py
        "training.optimizer",
        first="the parameters",
        given={
            "lr": "training.optimizer.learning_rate",
            "weight_decay": "training.optimizer.weight_decay",
            "betas": "training.optimizer.betas",
        },
        where_taken=("betas",),
        options=ALL_OPTIMIZER_OPTIONS,
    ),
    Call(  # training/lr_schedules.py
        "training.scheduler",
        first="the optimizer",
        by_step={"total_steps": "training.epochs"},
        options=SchedulerSettings.model_fields.keys() - {"type"},
        of_built_in=ALL_SCHEDULER_OPTIONS,
    ),
    *(Call(each.KEY, of_built_in=each.all_options(), only_train=each.KEY != "sampler") for each in CHOICES),
)


def arguments_are_taken(tree: SettingsReader) -> Iterator[Fault]:
    """What is wrong with the user's own classes: each is imported and compared with how it will be called."""
    for call in CALLS:
        try:
            yield from _faults_in(call, tree)
        except Unreadable:
            continue  # the key in question has been reported already


def _faults_in(call: Call, tree: SettingsReader) -> Iterator[Fault]:
    if call.only_train and tree["mode"] != "train":
        return
    path = tree[call.type_key]
    if path is None or "." not in path:
        return
    try:
        cls = load_class(path, call.type_key)
        signature = Signature.of(cls, fills_first=bool(call.first))
    except ConfigError as error:
        yield from error.faults
        return
    except ValueError:
        return
    if inspect.isabstract(cls):
        lacking = ", ".join(sorted(cls.__abstractmethods__))
        yield Fault(call.type_key, f"must be a class that can be built; this one is abstract: {lacking}", path)
    options, given = call.options_in(tree), call.given_to(cls, signature.by_name)
    fields = tree.schema_of(call.section).model_fields.keys() - set(call.options)
    known = fields | (set(signature.by_name) - given.keys())
    for name, value in options.items():
        yield from _faults_of_option(call, name, value, path, signature, given, known)
    for name in signature.required:
        if name in signature.by_name and name not in options and name not in given:
            yield Fault(f"{call.section}.{name}", f"required by {path}, but missing")
    yield from _faults_of_class(call, path, signature, given)


def _faults_of_class(call: Call, path: str, signature: Signature, given: Mapping[str, str]) -> Iterator[Fault]:
    """What no option can mend."""
    if call.first and not signature.filled:
        yield Fault(call.type_key, f"must take {call.first} as its first argument", path)
    untaken = [name for name in given if not signature.takes(name)]
    if untaken:
        rule = f"must take {', '.join(untaken)} (or **others), which every class of {call.section} is given"
        yield Fault(call.type_key, rule, path)
    unreachable = [name for name in signature.required if name not in signature.by_name]
    if unreachable:
        yield Fault(call.type_key, f"must take {', '.join(unreachable)} by name, not by position alone", path)


def _faults_of_option(
    call: Call,
    name: str,
    value: object,
    path: str,
    signature: Signature,
    given: Mapping[str, str],
    known: Collection[str],
) -> Iterator[Fault]:
    key = f"{call.section}.{name}"
    if name in given:
        yield Fault(key, f"{path} is given this from {given[name]}; leave it out", value)
    elif name in signature.filled:
        yield Fault(key, f"{path} is given {call.first} for this; leave it out", value)
    elif not signature.takes(name):
        rule = f"{path} takes no such argument"
        if name in call.of_built_in:  # most likely not typed, but part of the file of the group
            yield Fault(key, f"{rule}; leave it out (command line: '~{key}')", value)
        else:
            yield Fault(key, rule, value, sibling_key(key, closest(name, known)))
