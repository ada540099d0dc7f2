"""JSON Schema of the sections of the configuration, from which the editors' files and the reference are generated.

Pydantic generates it from the classes that validate, so nothing is stated twice.
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

from diffusion_lab.cli.evaluate_schema import EvaluateConfig
from diffusion_lab.config.choice import options_schema
from diffusion_lab.config.schema import GenerateConfig, TrainConfig

JsonSchema = dict[str, Any]


def section_schemas() -> dict[str, JsonSchema]:
    """Return the schema of every section by the name of its class, linked by ``$ref``."""
    roots: list[tuple[type[BaseModel], Any]] = [
        (root, "validation") for root in (TrainConfig, GenerateConfig, EvaluateConfig)
    ]
    _, document = models_json_schema(roots, schema_generator=_Draft7)
    sections: dict[str, JsonSchema] = document["$defs"]
    for section in sections.values():
        del section["title"]
        section["description"] = _summary(section["description"])
    return sections


def class_options(cls: type[Any]) -> dict[str, JsonSchema]:
    """Return the schema of each option of a class: a field of the dataclass, described by the string below it."""
    options = options_schema(cls)
    if options is None:
        return {}
    docstrings = _field_docstrings(cls)
    schemas: dict[str, JsonSchema] = options.model_json_schema(schema_generator=_Draft7)["properties"]
    return {name: {"description": docstrings.get(name, ""), **schema} for name, schema in schemas.items()}


class _Draft7(GenerateJsonSchema):
    """Pydantic's JSON Schema without field titles, and with pairs in the form of draft 7."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def tuple_schema(self, schema: core_schema.TupleSchema) -> JsonSchema:
        described = super().tuple_schema(schema)
        if "prefixItems" in described:
            described["items"] = described.pop("prefixItems")
        return described


def _field_docstrings(cls: type[Any]) -> dict[str, str]:
    """Return the string below each field of a dataclass by field name; a field without one inherits it."""
    docstrings: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if dataclasses.is_dataclass(base):
            (definition,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
            for field, text in pairwise(definition.body if isinstance(definition, ast.ClassDef) else []):
                match field, text:
                    case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(docstring))):
                        docstrings[name] = _summary(docstring)
    return docstrings


def _summary(docstring: str) -> str:
    """Return the first paragraph of a docstring on one line, with Markdown code marks."""
    return " ".join(inspect.cleandoc(docstring).partition("\n\n")[0].replace("``", "`").split())
