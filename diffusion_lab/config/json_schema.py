"""The sections of the configuration as JSON Schema: what editors' files and the reference of all keys are made from.

Pydantic makes it from the classes that validate, so nothing is stated twice.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
from itertools import pairwise
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, models_json_schema
from pydantic_core import core_schema

from diffusion_lab.config.choice import options_schema
from diffusion_lab.config.evaluate_schema import EvaluateConfig
from diffusion_lab.config.schema import GenerateConfig, TrainConfig

JsonSchema = dict[str, Any]


def section_schemas() -> dict[str, JsonSchema]:
    """The schema of every section by the name of its class; ``$ref`` leads from one to another."""
    roots: list[tuple[type[BaseModel], Any]] = [
        (root, "validation") for root in (TrainConfig, GenerateConfig, EvaluateConfig)
    ]
    _, document = models_json_schema(roots, schema_generator=_Draft7)
    sections: dict[str, JsonSchema] = document["$defs"]
    for section in sections.values():
        del section["title"]
        section["description"] = _in_words(section["description"])
    return sections


def class_options(cls: type[Any]) -> dict[str, JsonSchema]:
    """The schema of each option of a class: a field of the dataclass, with what the text below it says."""
    options = options_schema(cls)
    if options is None:
        return {}
    texts = _texts_below_fields(cls)
    schemas: dict[str, JsonSchema] = options.model_json_schema(schema_generator=_Draft7)["properties"]
    return {name: {"description": texts.get(name, ""), **schema} for name, schema in schemas.items()}


class _Draft7(GenerateJsonSchema):
    """Pydantic's own JSON Schema without a title for each field, and with pairs as draft 7 writes them."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def tuple_schema(self, schema: core_schema.TupleSchema) -> JsonSchema:
        described = super().tuple_schema(schema)
        if "prefixItems" in described:
            described["items"] = described.pop("prefixItems")
        return described


def _texts_below_fields(cls: type[Any]) -> dict[str, str]:
    """The string under each field of a dataclass, by the field's name; a field that has none takes its base's."""
    texts: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if dataclasses.is_dataclass(base):
            (definition,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
            for field, text in pairwise(definition.body if isinstance(definition, ast.ClassDef) else []):
                match field, text:
                    case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(words))):
                        texts[name] = _in_words(words)
    return texts


def _in_words(docstring: str) -> str:
    """The first paragraph of a docstring on one line, with Markdown's marks of code."""
    return " ".join(inspect.cleandoc(docstring).partition("\n\n")[0].replace("``", "`").split())
