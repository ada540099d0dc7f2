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
from diffusion_lab.config.schema import CHOICES, GenerateConfig, TrainConfig
from diffusion_lab.faults import UNION_TAG
from diffusion_lab.typed_settings.choice import CUSTOM, ChoiceSettings
from diffusion_lab.typed_settings.class_options import parameters_of

JsonSchema = dict[str, Any]


def section_schemas() -> dict[str, JsonSchema]:
    """Return the schema of every section by the name of its class, linked by ``$ref``."""
    roots: list[tuple[type[BaseModel], Any]] = [
        (root, "validation") for root in (TrainConfig, GenerateConfig, EvaluateConfig)
    ]
    _, document = models_json_schema(roots, schema_generator=_Draft7)
    members = {choice.member_for(name).__name__ for choice in CHOICES for name in choice.NAMED}
    members -= {choice.__name__ for choice in CHOICES}
    sections: dict[str, JsonSchema] = {name: part for name, part in document["$defs"].items() if name not in members}
    for section in sections.values():
        del section["title"]
        section["description"] = _summary(section["description"])
    return sections


def type_options(choice: type[ChoiceSettings], name: str | None) -> dict[str, JsonSchema]:
    """Return the schema of each option of a named type; a field of a dataclass is described by the string below it."""
    if choice.path_of(name) is not None:  # nothing but the names is known of the arguments of other classes
        taken, _ = parameters_of(choice.class_of(name or ""))
        own = {*choice.PASSED, choice.FIRST_NAME}
        return {option: {"description": "As in the class."} for option in taken if option not in own}
    member = choice.member_for(name)
    docstrings = _field_docstrings(choice.NAMED[name])
    schemas: dict[str, JsonSchema] = member.model_json_schema(schema_generator=_Draft7)["properties"]
    return {
        option: {"description": docstrings.get(option, ""), **schemas[option]} for option in choice.options_of(name)
    }


class _Draft7(GenerateJsonSchema):
    """Pydantic's JSON Schema without field titles, and with pairs in the form of draft 7."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def generate_inner(self, schema: Any) -> JsonSchema:
        """Return a section with a type by its own keys; ``editor_schema`` adds the options of each type."""
        return super().generate_inner(
            schema["choices"][f"{UNION_TAG}{CUSTOM}"] if schema["type"] == "tagged-union" else schema
        )

    def tuple_schema(self, schema: core_schema.TupleSchema) -> JsonSchema:
        described = super().tuple_schema(schema)
        if "prefixItems" in described:
            described["items"] = described.pop("prefixItems")
        return described


def _field_docstrings(cls: Any) -> dict[str, str]:
    """Return the string below each field of a dataclass by field name; a field without one inherits it."""
    docstrings: dict[str, str] = {}
    bases: list[type[Any]] = list(reversed(cls.__mro__))
    for base in bases:
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
