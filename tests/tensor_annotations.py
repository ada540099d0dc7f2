"""Checks the tensors that the package's functions get and return against their jaxtyping annotations.

Only annotations of tensors are checked: other values may be of a wrong type in a test of what is refused. Rooms whose
functions refuse wrong tensors with messages of their own are left out.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType, UnionType
from typing import Any, Union, get_args, get_origin

from beartype import beartype
from jaxtyping import AbstractArray, jaxtyped

PACKAGE = "diffusion_lab"
ROOMS = (
    *("cpu", "denoiser", "diffusion", "guidance", "networks", "shapes"),
    *("data.augmentation", "sampling.batches", "sampling.finite_samples", "sampling.image_noise"),
)
FOR_TYPE_CHECKERS = ("Images", "PerImage", "Times")
"""Types of ``shapes`` that modules which must not import torch import only for type checkers."""


def install() -> None:
    """Check the modules of ``ROOMS`` that are imported from now on."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that checks its tensors; the same function if no annotation mentions one.

    Tensors of the same shapes and element types are checked once, which costs the tests hardly any time.
    """
    if not any(mentions_tensor(_evaluate(hint, function)) for hint in function.__annotations__.values()):
        return function
    import torch  # here, since not every test needs it

    checking, checked_before = jaxtyped(typechecker=_check_tensors)(function), set()

    def kind(value: object) -> object:
        return (value.dtype, value.shape) if isinstance(value, torch.Tensor) else type(value)

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():  # which follows calls, and cannot follow the check
            return function(*args, **kwargs)
        kinds = (*map(kind, args), *kwargs, *map(kind, kwargs.values()))
        if kinds in checked_before:
            return function(*args, **kwargs)
        result = checking(*args, **kwargs)
        checked_before.add(kinds)
        return result

    return call


def mentions_tensor(hint: object) -> bool:
    """Return whether a type is one with element type and axes, or a union or tuple with one.

    Not a list of them: beartype checks a random entry, with Python's generator, whose state tests compare.
    """
    if get_origin(hint) in (Union, UnionType, tuple):
        return any(map(mentions_tensor, get_args(hint)))
    return inspect.isclass(hint) and issubclass(hint, AbstractArray)


def _check_tensors(function: Callable[..., Any]) -> Callable[..., Any]:
    function.__annotations__ = {name: hint for name, hint in function.__annotations__.items() if mentions_tensor(hint)}
    return beartype(function)


def _evaluate(hint: object, function: Callable[..., Any]) -> object:
    try:
        return eval(hint, function.__globals__) if isinstance(hint, str) else hint
    except (NameError, TypeError, AttributeError):  # a name for type checkers only
        return None


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not any(f"{fullname}.".startswith(f"{PACKAGE}.{room}.") for room in ROOMS):
            return None
        for finder in sys.meta_path[sys.meta_path.index(self) + 1 :]:
            spec = finder.find_spec(fullname, path, target)
            if spec is not None and spec.loader is not None:
                spec.loader = _CheckingLoader(spec.loader)
                return spec
        return None


class _CheckingLoader(Loader):
    """Loader that runs the module with its own loader, then replaces its functions by checked ones."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def __getattr__(self, name: str) -> object:
        return getattr(self.loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.loader.exec_module(module)
        if module.__name__ != f"{PACKAGE}.shapes":
            from diffusion_lab import shapes

            for name in FOR_TYPE_CHECKERS:
                vars(module).setdefault(name, getattr(shapes, name))
        for owner, name, function in _functions(module):
            setattr(owner, name, checked(function))


def _functions(module: ModuleType) -> Iterator[tuple[object, str, Callable[..., Any]]]:
    """Yield the functions and methods that a module defines, with their owner and name."""
    for name, value in list(vars(module).items()):
        if getattr(value, "__module__", None) != module.__name__:
            continue
        if inspect.isfunction(value):
            yield module, name, value
        elif inspect.isclass(value):
            yield from (
                (value, each, member) for each, member in list(vars(value).items()) if inspect.isfunction(member)
            )
