"""Rules about the options of a type: their names, their owners and their values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from inspect import isabstract

from pydantic import ValidationError

from diffusion_lab.config.choice import ChoiceSettings, options_schema
from diffusion_lab.config.settings_reader import SettingsReader, suggest_key
from diffusion_lab.faults import ConfigError, Fault, closest, faults_of, unknown_key

SET_BY_THE_PROJECT = {
    "training.optimizer.lr": "from training.optimizer.learning_rate",
    "training.optimizer.params": "to the weights of the network",
    "training.scheduler.optimizer": "to the optimizer of training.optimizer",
    "training.scheduler.total_steps": "to the optimizer steps that training.epochs makes",
}
"""Arguments of optimizers and learning-rate schedules that are not settings."""


def check_unknown_keys(section: str) -> Callable[[SettingsReader], Iterator[Fault]]:
    """Return a rule against unknown keys of a section, which only a class given by its dotted path may have."""

    def rule(tree: SettingsReader) -> Iterator[Fault]:
        values = tree.section(section)
        if "." in str(values.get("type")):
            return
        fields = tree.schema_of(section).model_fields.keys()
        type_is_wrong = tree.is_faulty(f"{section}.type")
        for name in values.keys() - fields:
            key = f"{section}.{name}"
            if type_is_wrong and not closest(name, fields, cutoff=0.9):
                continue  # the right type may have such a key
            if key in SET_BY_THE_PROJECT:
                source = SET_BY_THE_PROJECT[key]
                yield Fault(key, f"is an argument that the project sets itself, {source}; leave it out", values[name])
                continue
            yield unknown_key(key, values[name], partial(suggest_key, root=tree.root))

    return rule


def check_options(choice: type[ChoiceSettings]) -> Callable[[SettingsReader], Iterator[Fault]]:
    """Return a rule about the values of a class's options; names for a custom class are checked by its signature."""

    def rule(tree: SettingsReader) -> Iterator[Fault]:
        values = tree.section(choice.KEY) if tree.has_key(choice.KEY) else {}
        name = tree[f"{choice.KEY}.type"]
        named = name in choice.NAMED
        options = {key: value for key, value in values.items() if key != "type"}
        try:
            cls = choice.class_of(name)
        except ConfigError:
            return  # reported when its signature was checked
        schema = options_schema(cls)
        if schema is None or isabstract(cls):
            return
        if not named:
            options = {key: value for key, value in options.items() if key in schema.model_fields}
        try:
            cls(**schema.model_validate(options).model_dump(exclude_unset=True))
        except ValidationError as error:
            errors = [each for each in error.errors() if named or each["type"] != "missing"]
            suggest = partial(_option_like, choice=choice, names=schema.model_fields)
            for fault in faults_of(errors, options, suggest, choice.KEY):
                yield _name_owners(fault, name, choice)
        except (TypeError, ValueError) as error:
            yield Fault(choice.KEY, str(error), values)

    return rule


def _name_owners(fault: Fault, kind: str, choice: type[ChoiceSettings]) -> Fault:
    """Return a fault that names the types that an option belongs to, if it probably remains from one of them."""
    option = fault.key.rpartition(".")[2]
    owners = [name for name in choice.NAMED if option in choice.options_of(name)]
    if kind not in choice.NAMED or kind in owners or not owners:
        return fault
    group = choice.KEY.rpartition(".")[2]
    rule = f"belongs to type {' or '.join(owners)}, not to {kind}; leave it out" + group_instead(group, kind)
    return Fault(fault.key, rule, fault.value)


def group_instead(group: str, kind: str | None) -> str:
    """Return a hint to select the group's file, for a command line that changed only the type."""
    return f" (command line: {group}={kind})" if kind else ""


def _option_like(key: str, choice: type[ChoiceSettings], names: Iterable[str]) -> str | None:
    """Return the dotted key of the option that resembles an unknown one, or None."""
    closest_name = closest(key.removeprefix(f"{choice.KEY}.").partition(".")[0], names)
    return None if closest_name is None else f"{choice.KEY}.{closest_name}"
