"""Lets torchvision be imported beside a torch that its binary was not built for.

Some package registries hold only the CUDA build of torchvision. Its compiled operators do not load beside a
CPU-only torch, and then `import torchvision` ends in `operator torchvision::nms does not exist`, and so do
lightning and torchmetrics, which import it. What fails is only the registration of shapes for two detection
operators that image generation never calls. Declaring these two, without an implementation, is enough for
transforms, datasets, models and grids; the image decoders of `torchvision.io` stay unavailable (use PIL).

`install()` puts a finder into `sys.meta_path`. It waits for `torchvision.extension`, the module that loads
the binary, lets it run, and then declares what the binary did not bring: nothing where it loads. Until
something imports torchvision this costs no import of torch.
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
    """Watch for the first import of torchvision. Calling it again changes nothing."""
    if LOADS_THE_BINARY in sys.modules:  # too late to watch, also after an import of torchvision that failed
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
            # FRAGMENT, not DEF: DEF claims the namespace and fails where somebody else has claimed it.
            library = torch.library.Library("torchvision", "FRAGMENT")
            for name in missing:
                library.define(SIGNATURES[name])
            _declarations.append(library)
    return missing


class _Finder(MetaPathFinder):
    """Finds `torchvision.extension` as the other finders do, and wraps its loader. Knows no other module."""

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
    """Runs the module as its own loader does, then declares what is missing."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def __getattr__(self, name: str) -> object:
        return getattr(self.loader, name)  # is_package, get_source, … for whoever inspects the spec

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self.loader  # the module ends up as if nobody had wrapped its loader
        if module.__spec__ is not None:
            module.__spec__.loader = self.loader
        self.loader.exec_module(module)
        declare_missing_operators()
