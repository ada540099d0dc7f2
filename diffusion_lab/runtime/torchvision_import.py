"""Importing torchvision with a torch that its binary was not built for.

Some package registries hold only the CUDA build of torchvision. Its compiled operators do not load with a CPU-only
torch, so `import torchvision` fails with `operator torchvision::nms does not exist`, as do lightning and torchmetrics,
which import it. What fails is only the shape registration of two detection operators that image generation never
calls. Declaring these two, without an implementation, is enough for transforms, datasets, models and grids; the image
decoders of `torchvision.io` stay unavailable (use PIL).

`install()` adds a finder to `sys.meta_path`; modules call it that import torchvision, or a library that does. When
`torchvision.extension`, the module that loads the binary, is imported, the finder lets it run, declares the missing
operators, if any, and is gone. Until something imports torchvision, torch is not imported.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from threading import Lock
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.library import Library

LOADS_THE_BINARY = "torchvision.extension"
SIGNATURES = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}

_lock = Lock()
_declarations: list[Library] = []  # torch forgets an operator when the Library that declared it is collected


def install() -> None:
    """Install a hook for the first import of torchvision. Calling it again has no effect."""
    if LOADS_THE_BINARY in sys.modules:  # too late for the hook, also after a failed import of torchvision
        if "torchvision" not in sys.modules:
            declare_missing_operators()
        return
    with _lock:
        if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
            sys.meta_path.insert(0, _Finder())


def declare_missing_operators() -> tuple[str, ...]:
    """Declare those of the two operators that torch does not know, and return their names."""
    import torch

    with _lock:
        missing = tuple(name for name in SIGNATURES if not hasattr(torch.ops.torchvision, name))
        if missing:
            # FRAGMENT, not DEF: DEF claims the namespace and fails if it is already claimed.
            library = torch.library.Library("torchvision", "FRAGMENT")
            for name in missing:
                library.define(SIGNATURES[name])
            _declarations.append(library)
    return missing


class _Finder(MetaPathFinder):
    """Finder that delegates `torchvision.extension` to the other finders and wraps its loader."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != LOADS_THE_BINARY:
            return None
        for finder in sys.meta_path[sys.meta_path.index(self) + 1 :]:
            spec = finder.find_spec(fullname, path, target)
            if spec is not None and spec.loader is not None:
                spec.loader = _ThenDeclare(spec.loader)
                return spec
        return None


class _ThenDeclare(Loader):
    """Loader that runs the module with its own loader, then declares missing operators."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def __getattr__(self, name: str) -> object:
        return getattr(self.loader, name)  # is_package, get_source, … for code that inspects the spec

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self.loader  # the module looks as if its loader had not been wrapped
        if module.__spec__ is not None:
            module.__spec__.loader = self.loader
        self.loader.exec_module(module)
        declare_missing_operators()
        sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _Finder)]
