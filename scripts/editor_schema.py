"""JSON Schema for editors: of complete V2 files, and of the files in ``conf/``, each of which is a part of one.

It gives editors every key with its type, bounds and description, and the options that belong to a ``type``. Rules that
involve several keys are left to the validation: whatever that accepts, the schema accepts too.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import yaml
from hydra.conf import HydraConf
from pydantic import BaseModel

from diffusion_lab.cli.evaluate_schema import EvaluateConfig
from diffusion_lab.config.sampler_section import SamplerSettings
from diffusion_lab.config.schema import CHOICES, GenerateConfig, GenerationSettings, OutputSettings, TrainConfig
from diffusion_lab.typed_settings.choice import ChoiceSettings, Options
from diffusion_lab.typed_settings.section import DeviceName
from diffusion_lab.typed_settings.settings_reader import leaves, section_of
from diffusion_lab.typed_settings.spelling import Spelling, spelling_of
from scripts.json_schema import JsonSchema, section_schemas, type_options

OptionsByType = Mapping[str | None, JsonSchema]

DIALECT = "http://json-schema.org/draft-07/schema#"
"""Newest dialect supported by the YAML plugins of all common editors."""

WHOLE_TREE, HYDRA = "_global_", "hydra"
"""Packages of ``conf/`` files that are not sections of the tree."""

REFERENCE, MISSING = r"\$\{", r"^\?\?\?$"
"""Replacements allowed for any value: a reference ``${…}``, and in ``conf/`` also ``???``, a mandatory value."""

DEFAULTS: JsonSchema = {
    "description": "Files of other groups that this one builds on: GROUP: NAME, or override /GROUP: NAME.",
    "type": "array",
    "items": {
        "anyOf": [
            {"type": "string"},
            {
                "type": "object",
                "minProperties": 1,
                "maxProperties": 1,
                "additionalProperties": {"type": ["string", "null", "array"]},
            },
        ]
    },
}


def schema_files(conf: Path) -> dict[str, JsonSchema]:
    """Return all schemas by their path in ``schema/``: of complete files, and of each package in ``conf/``."""
    named = {package_of(file) or WHOLE_TREE for depth in ("*.yaml", "*/*.yaml") for file in conf.glob(depth)}
    packages = sorted(package for package in named if not package.startswith(f"{HYDRA}."))
    files = {"config.schema.json": config_schema()}
    files |= {f"conf/{package}.schema.json": package_schema(package) for package in packages}
    files[f"conf/{WHOLE_TREE}.schema.json"] = tree_schema({})
    files["conf/sample.schema.json"] = tree_schema(short_names(conf / "sample.yaml"))
    return files | {"conf/evaluate.schema.json": evaluate_schema(short_names(conf / "evaluate.yaml"))}


def package_of(file: Path) -> str | None:
    """Return the package of a ``conf/`` file, as given by its first line, or None."""
    match = re.match(r"# @package (\S+)\n", file.read_text(encoding="utf-8"))
    return match[1] if match else None


def short_names(file: Path) -> dict[str, str]:
    """Return the top-level names of ``conf/train.yaml`` or ``sample.yaml`` that only fill keys, each with its key."""
    tree = yaml.safe_load(file.read_text(encoding="utf-8"))
    filled = {value: key for key, value in leaves(tree).items() if isinstance(value, str)}
    return {name: filled[f"${{{name}}}"] for name in tree if f"${{{name}}}" in filled}


def config_schema() -> JsonSchema:
    """Return the schema of a complete V2 file, for training or generation by its ``mode``."""
    root = {
        "description": "Settings of a run of diffusion_lab: a complete V2 file.",
        "if": {"required": ["mode"], "properties": {"mode": _in_any_case(["generate"])}},
        "then": {"$ref": f"#/$defs/{GenerateConfig.__name__}"},
        "else": {"$ref": f"#/$defs/{TrainConfig.__name__}"},
    }
    sections = _sections(complete=True)
    _make_generation_keys_optional(sections)
    return _document(root, sections)


def _make_generation_keys_optional(sections: dict[str, JsonSchema]) -> None:
    """Make the keys optional that ``fill_for_generation`` adds with ``mode: generate``."""
    partial_sections, root = _sections(complete=False), sections[GenerateConfig.__name__]
    refs = r'"#/\$defs/(?!Reference)(\w+)"'
    for name in ("compute", "output", "generation", "model", "data", "training"):
        pending = re.findall(refs, json.dumps(root["properties"][name]))
        root["properties"][name] = _renamed(root["properties"][name], refs)
        while pending:
            cls_name = pending.pop()
            pending += re.findall(refs, json.dumps(partial_sections[cls_name]))
            sections[f"{cls_name}InPart"] = _renamed(partial_sections[cls_name], refs)
    root["required"].remove("compute")
    sections[f"{OutputSettings.__name__}InPart"]["required"] = ["base_dir"]
    sections[f"{GenerationSettings.__name__}InPart"]["required"] = ["checkpoint"]


def _renamed(schema: JsonSchema, refs: str) -> JsonSchema:
    """Return a schema whose references lead to the sections with optional keys."""
    renamed: JsonSchema = json.loads(re.sub(refs, r'"#/$defs/\1InPart"', json.dumps(schema)))
    return renamed


def package_schema(package: str) -> JsonSchema:
    """Return the schema of ``conf/`` files of a package, such as ``training.optimizer``; all keys are optional.

    Raises ValueError if the tree has no such section.
    """
    if package == HYDRA:
        return _document(_hydra(), {})
    sections = _sections(complete=False)
    root = sections[_class_of(package).__name__]
    root["properties"]["defaults"] = DEFAULTS
    return _document(root, sections)


def tree_schema(short: Mapping[str, str]) -> JsonSchema:
    """Return the schema of ``conf/`` files with any part of the tree, and with short names for keys."""
    document = package_schema(WHOLE_TREE)
    generate = _sections(complete=False)[GenerateConfig.__name__]["properties"]["mode"]
    document["properties"]["mode"]["anyOf"] += [one for one in generate["anyOf"] if "$ref" not in one]
    document["properties"]["hydra"] = _hydra()
    _add_short_names(document, short)
    return document


def evaluate_schema(short: Mapping[str, str]) -> JsonSchema:
    """Return the schema of ``conf/evaluate.yaml``, where options of the sampler may be lists of values to try."""
    sections = _sections(complete=False)
    sampler = sections[SamplerSettings.__name__]
    for rule in sampler["allOf"]:
        options = rule["then"]["properties"]
        for name, option in options.items():
            if name not in ("type", "defaults"):
                annotations = {part: option[part] for part in ("description", "default") if part in option}
                one = {part: content for part, content in option.items() if part not in annotations}
                options[name] = {**annotations, "anyOf": [one, {"type": "array", "items": one, "minItems": 1}]}
    root = sections[EvaluateConfig.__name__]
    root["properties"] |= {"defaults": DEFAULTS, "hydra": _hydra()}
    document = _document(root, sections)
    _add_short_names(document, short)
    return document


def _add_short_names(document: JsonSchema, short: Mapping[str, str]) -> None:
    for name, key in short.items():
        node = document
        for part in key.split("."):
            node = document["$defs"][node["$ref"].rpartition("/")[2]] if "$ref" in node else node
            node = node["properties"][part]
        document["properties"][name] = {**node, "description": f"Short for {key}. {node['description']}"}


def _sections(complete: bool) -> dict[str, JsonSchema]:
    """Return the sections as written in files: with references for values, and options that fit the ``type``.

    Args:
        complete: Whether required keys must be present; otherwise all keys are optional.
    """
    sections: dict[str, JsonSchema] = section_schemas()
    classes: dict[str, type[BaseModel]] = {}
    for root in (TrainConfig, GenerateConfig, EvaluateConfig):
        classes |= dict(_classes(root))
    for cls_name, section in sections.items():
        section["properties"] = {
            key: _or_reference(value, spelling_of(classes[cls_name], key))
            for key, value in section["properties"].items()
        }
        if isinstance(section.get("additionalProperties"), dict):
            section["additionalProperties"] = _or_reference(section["additionalProperties"])
        if not complete:
            section.pop("required", None)
    for choice in CHOICES:
        _give_options(sections[choice.__name__], choice, complete)
    pattern = REFERENCE if complete else f"{REFERENCE}|{MISSING}"
    return {**sections, "Reference": {"type": "string", "pattern": pattern}}


def _classes(cls: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    """Yield a section and its subsections, by the names of their classes."""
    yield cls.__name__, cls
    for name in cls.model_fields:
        section = section_of(cls, name)
        if section is not None:
            yield from _classes(section)


def _in_any_case(names: Iterable[str], patterns: Iterable[str] = ()) -> JsonSchema:
    """Return a schema for names in any case, as a pattern, for which editors make no suggestions."""
    words = [*map(re.escape, names), *patterns]
    folded = (re.sub(r"(?<!\\)[a-z]", lambda match: f"[{match[0]}{match[0].upper()}]", word) for word in words)
    return {"type": "string", "pattern": f"^({'|'.join(folded)})$"}


def _or_reference(value: JsonSchema, spelling: Spelling = Spelling()) -> JsonSchema:  # noqa: B008 - it is frozen
    """Return a schema for a value in any accepted spelling, or a reference; a section stays unchanged."""
    choices = [value] if "type" in value else value.get("anyOf", [value])
    if any("$ref" in choice for choice in choices):
        return value
    annotations: JsonSchema = {name: value[name] for name in ("description", "default") if name in value}
    plain = [{name: part for name, part in choice.items() if name not in annotations} for choice in choices]
    for choice in plain:
        entries = choice.get("items")
        if isinstance(entries, list):
            choice["items"] = [_or_reference(entry) for entry in entries]
        elif entries is not None:
            choice["items"] = _or_reference(entries, spelling.entries or Spelling())
    words = [*spelling.names, *(["none"] if spelling.may_be_null else [])]
    spelled = [_in_any_case(words, [DeviceName.NUMBERED] if spelling.is_lower else [])] if words else []
    return {**annotations, "anyOf": [*plain, *spelled, {"$ref": "#/$defs/Reference"}]}


def _options(choice: type[ChoiceSettings], name: str | None) -> JsonSchema:
    """Return the options of a type; those of other types with ``Options`` may have their default, without effect."""
    own: JsonSchema = type_options(choice, name)
    for option in choice.options_of(name):
        own[option] = _or_reference(own[option], spelling_of(choice.member_for(name), option))
    others = {}
    for option in choice.all_options() if issubclass(choice.member_for(name), Options) else ():
        fields = [choice.options_of(owner)[option] for owner in choice.owners_of(option)]
        defaults = [field.default for field in fields if not field.is_required()]
        others[option] = {"enum": list(dict.fromkeys(defaults)), "doNotSuggest": True}
    return {option: value for option, value in others.items() if value["enum"]} | own


def _give_options(section: JsonSchema, choice: type[ChoiceSettings], complete: bool) -> None:
    """Allow, besides the keys of the section, only the options of its ``type``; any options for a custom class.

    A file of ``conf/`` without a ``type``, which another file may set, may have the options of all types.
    """
    keys: JsonSchema = {key: {} for key in section["properties"]}
    kind = section["properties"]["type"]
    options: OptionsByType = {name: _options(choice, name) for name in choice.NAMED}
    rules = section["allOf"] = []
    for name, own in options.items():
        this_type = {"anyOf": [{"const": None}, _in_any_case(["none"])]} if name is None else _in_any_case([name])
        when: JsonSchema = {"properties": {"type": this_type}}
        if not complete or "default" not in kind or name != kind["default"]:
            when["required"] = ["type"]
        then = _only({**keys, **own})
        required = [option for option, field in choice.options_of(name).items() if field.is_required()]
        if complete and required:
            then["required"] = required
        rules.append({"if": when, "then": then})
    if not complete:
        rules.append({"if": {"not": {"required": ["type"]}}, "then": _only({**keys, **_options_of_any_type(options)})})


def _options_of_any_type(options: OptionsByType) -> JsonSchema:
    variants: dict[str, list[JsonSchema]] = {}
    for name, value in (item for own in options.values() for item in own.items()):
        schema = {part: content for part, content in value.items() if part != "default"}
        if "doNotSuggest" not in schema and schema not in variants.setdefault(name, []):
            variants[name].append(schema)
    return {name: schemas[0] if len(schemas) == 1 else {"anyOf": schemas} for name, schemas in variants.items()}


def _only(properties: JsonSchema) -> JsonSchema:
    return {"properties": {**properties, "defaults": {"doNotSuggest": True}}, "additionalProperties": False}


def _hydra() -> JsonSchema:
    names: JsonSchema = {field.name: {} for field in dataclasses.fields(HydraConf)}
    return {
        "description": "Settings of Hydra itself: folders of runs and sweeps, launcher, sweeper, help.",
        "type": "object",
        "properties": names | {"defaults": DEFAULTS},
        "additionalProperties": False,
    }


def _class_of(package: str) -> type[BaseModel]:
    cls: type[BaseModel] = TrainConfig
    for part in package.split(".") if package != WHOLE_TREE else ():
        section = section_of(cls, part)
        if section is None:
            raise ValueError(f"# @package {package}: the tree has no section {part}")
        cls = section
    return cls


def _document(root: JsonSchema, sections: Mapping[str, JsonSchema]) -> JsonSchema:
    """Return a self-contained schema: ``root`` and the sections that it references."""
    reached: set[str] = set()
    pending = [root]
    while pending:
        references = set(re.findall(r'"#/\$defs/(\w+)"', json.dumps(pending.pop()))) - reached
        reached |= references
        pending += [sections[name] for name in references]
    parts = {"$defs": {name: sections[name] for name in sorted(reached)}} if reached else {}
    return copy.deepcopy({"$schema": DIALECT, **root, **parts})
