"""Base classes and types of all sections of the configuration: strict types, no unknown keys, immutable."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    StringConstraints,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from diffusion_lab.faults import closest

DOTTED_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")

DottedPath = Annotated[str, Field(pattern=f"^{DOTTED_PATH.pattern}$")]
"""Dotted path of a custom class."""


MAX_PROCESSES = 1024
"""Maximum number of threads or processes of one run; far more would end the program."""

MAX_COUNT = 2**31 - 1


class Section(BaseModel):
    """Section of the tree: a bool is not an int, ``"1"`` is not a number, NaN is not a value, a typo is a fault."""

    model_config = ConfigDict(
        defer_build=True,  # a run uses one of three root classes: build only its sections, to start faster
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        ser_json_inf_nan="constants",  # an option of a custom class may be infinite, which is not null
    )


def _is_path_text(value: object) -> object:
    if not (isinstance(value, Path) or (isinstance(value, str) and value.strip() and "\0" not in value)):
        raise ValueError("must be a path")
    path = home_expanded(value)
    if Path(path).parts[:1] == ("~",):
        raise ValueError("must be a path without ~, since your home folder is unknown (HOME is not set)")
    return path


def home_expanded(path: str | Path) -> str | Path:
    """Return the path with a leading ``~`` or ``~USER`` replaced by the home folder, as a shell does.

    A shell does not do so after the ``=`` of ``key=~/folder``. A ``~`` that cannot be replaced stays.
    """
    if not str(path).startswith("~"):
        return path
    try:
        return type(path)(Path(path).expanduser())
    except RuntimeError:  # no such user, or no home folder
        return path


def _names_an_experiment(name: str) -> str:
    path = Path(name)
    if path.is_absolute() or ".." in path.parts or name.startswith("~") or "\0" in name:
        raise ValueError(
            "must be a name or a relative path without '..' or '~' (on the command line name=NAME): the run folder is "
            "outputs/NAME/TIME"
        )
    return name


def name_inside(name: str) -> str:
    """Return the name of a subfolder. Raises ValueError if it would lead outside its parent."""
    path = Path(name)
    if path.is_absolute() or ".." in path.parts or path == Path() or name.startswith("~") or "\0" in name:
        raise ValueError("must be a relative folder name that stays inside output.base_dir")
    return name


def _fits_a_counter(value: int) -> int:
    """Refuse integers that overflow the counters of the underlying libraries."""
    if value > MAX_COUNT:
        raise ValueError(f"must be at most {MAX_COUNT}")
    return value


def or_auto(schema: dict[str, Any]) -> None:
    """Let editors accept ``auto``, which is replaced by a number before the validation (data/auto_size.py)."""
    number = {key: schema.pop(key) for key in ("type", "minimum", "enum") if key in schema}
    schema["anyOf"] = [number, {"const": "auto", "type": "string"}]


DURATION = re.compile(r"(\d+):(\d\d):(\d\d):(\d\d)")


def duration_of(text: str) -> timedelta:
    """Return a duration in Lightning's format, days:hours:minutes:seconds.

    >>> duration_of("00:12:30:00")
    datetime.timedelta(seconds=45000)
    """
    match = DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f"must be a duration DD:HH:MM:SS, got {text!r}")
    days, hours, minutes, seconds = map(int, match.groups())
    return timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)


def _is_duration(value: object) -> object:
    # Without quotes, YAML takes 10:00:00:00 for a number to the base 60.
    if not isinstance(value, str) or DURATION.fullmatch(value) is None or not duration_of(value):
        raise ValueError("must be a duration 'DD:HH:MM:SS' (days, hours, minutes, seconds) in quotes, above zero")
    return value


class NameOrPath:
    """Annotation of a string that is one of ``names`` or the dotted path of a custom class.

    Args:
        names: The choices.
        also: Other names for the choices, each with the choice it stands for.
        paths: Dotted paths of library classes, suggested if only the name of the class is given.
    """

    def __init__(self, *names: str, also: Mapping[str, str] | None = None, paths: Iterable[str] = ()) -> None:
        self.names = names
        self.also = dict(also or {})
        self._paths = {path.rpartition(".")[2].lower(): path for path in paths}

    def check(self, value: str) -> str:
        """Return a valid value unchanged. Raises PydanticCustomError, with the valid names, for any other."""
        if value in self.names or DOTTED_PATH.fullmatch(value):
            return value
        choices = f"{', '.join(self.names)}, or the dotted path of a class (my_lab.module.Name)"
        path = self._paths.get(value.lower())
        names = {name.lower(): name for name in self.names} | {name.lower(): to for name, to in self.also.items()}
        suggestion = path or names.get(closest(value.lower(), names) or "")
        raise PydanticCustomError("choice", "must be one of {choices}", {"choices": choices, "suggestion": suggestion})

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, _: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        own_class = {"type": "string", "format": "dotted-path", "pattern": f"^{DOTTED_PATH.pattern}$"}
        return {"anyOf": [{"type": "string", "enum": list(self.names)}, own_class]}


class DeviceName:
    """Annotation of a string that names a device: its type, or its type and number, as in ``cuda:1``."""

    KINDS = ("auto", "cpu", "cuda", "mps")
    NUMBERED = r"(cuda:(0|[1-9]\d{0,3})|cpu:0|mps:0)"

    def check(self, value: str) -> str:
        """Return a valid value unchanged. Raises PydanticCustomError, with the valid names, for any other."""
        if value in self.KINDS or re.fullmatch(self.NUMBERED, value, re.ASCII):
            return value
        choices = f"{', '.join(self.KINDS[:-1])} or {self.KINDS[-1]}, or a GPU by its number (cuda:1)"
        raise PydanticCustomError("choice", "must be {choices}", {"choices": choices, "names": self.KINDS})

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, _: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        numbered = {"type": "string", "format": "numbered-device", "pattern": f"^{self.NUMBERED}$"}
        return {"anyOf": [{"type": "string", "enum": list(self.KINDS)}, numbered]}


PositiveInt = Annotated[int, Field(ge=1), AfterValidator(_fits_a_counter)]
Probability = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]
ExperimentName = Annotated[
    str,
    StringConstraints(min_length=1),
    AfterValidator(_names_an_experiment),
    Field(
        json_schema_extra={
            "pattern": r"^(?![/~])(?!(.*/)?\.\.(/|$))",
            "patternErrorMessage": "must be a name or a relative path without '..' or '~'",
        }
    ),
]
PathText = Annotated[Path, BeforeValidator(_is_path_text), Field(strict=False, json_schema_extra={"pattern": r"\S"})]
FolderName = Annotated[
    str,
    StringConstraints(min_length=1),
    AfterValidator(name_inside),
    Field(
        json_schema_extra={
            "format": "folder-name",
            "pattern": r"^(?!/|~|\.?$)(?!(.*/)?\.\.(/|$))",
            "patternErrorMessage": "must be a relative folder name that stays inside output.base_dir",
        }
    ),
]
Duration = Annotated[
    str,
    BeforeValidator(_is_duration),
    Field(json_schema_extra={"format": "time-limit", "pattern": rf"^(?!0+:00:00:00$){DURATION.pattern}$"}),
]
