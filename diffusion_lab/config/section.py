"""What all sections of the configuration share: strict types, no unknown keys, nothing to change later."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints
from pydantic_core import PydanticCustomError

DOTTED_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")


class Section(BaseModel):
    """A part of the tree: a bool is no int, ``"1"`` is no number, NaN is no value, a typo is a fault."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        ser_json_inf_nan="constants",  # an option of a class of the user's own may be infinite, and is no null
    )


class PluggableSection(Section):
    """A section whose ``type`` may name the user's own class by its dotted path.

    Keys beyond the fields are arguments of that class; with a built-in type the validation refuses them.
    """

    model_config = ConfigDict(extra="allow")

    @property
    def extra_options(self) -> dict[str, Any]:
        """The keys that no field declares, in the order given."""
        return dict(self.model_extra or {})


def _is_path_text(value: object) -> object:
    if isinstance(value, Path) or (isinstance(value, str) and value.strip()):
        return value
    raise ValueError("must be a path")


def _stays_inside(name: str) -> str:
    path = Path(name)
    if path.is_absolute() or ".." in path.parts or path == Path():
        raise ValueError("must be a relative folder name that stays inside output.base_dir")
    return name


def name_or_path(*names: str) -> Callable[[str], str]:
    """A check for a choice by name: one of ``names``, or a dotted import path to the user's own class."""

    def check(value: str) -> str:
        if value in names or DOTTED_PATH.fullmatch(value):
            return value
        choices = f"{', '.join(names)}, or the dotted path of a class (my_lab.module.Name)"
        raise PydanticCustomError("choice", "must be one of {choices}", {"choices": choices, "names": names})

    return check


PositiveInt = Annotated[int, Field(ge=1)]
Probability = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]
PathText = Annotated[Path, BeforeValidator(_is_path_text), Field(strict=False)]
FolderName = Annotated[str, StringConstraints(min_length=1), AfterValidator(_stays_inside)]
