"""Layers of the package, and the imports between its rooms, read from the source without running it.

A room is a folder or a single module directly inside the package. ``tests/test_layers.py`` enforces the layers,
``scripts/draw_rooms.py`` draws them. Imports inside functions and those for type checking count as well.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PACKAGE = "diffusion_lab"
ROOT = Path(__file__).resolve().parent.parent

FLOORS: dict[str, tuple[tuple[str, ...], ...]] = {
    "Ground": (
        ("shapes", "version", "metric_names", "console", "cpu"),
        ("faults",),
        ("arguments",),
        ("runtime",),
        ("files", "image_grids", "typed_settings"),
    ),
    "Mathematics, networks, data": (
        ("diffusion", "networks", "data"),
        ("denoiser",),
        ("guidance", "samplers"),
    ),
    "Settings and commands": (
        ("config",),
        ("v1", "sweeps"),
        ("cli",),
    ),
    "Models and sampling": (
        ("ema", "run_images"),
        ("sampling",),
        ("create",),
        ("checkpoint",),
    ),
    "Runs": (
        ("runs",),
        ("generation",),
        ("features",),
        ("evaluation",),
        ("reports",),
        ("tracking",),
        ("training",),
        ("doctor", "preview"),
        ("commands",),
        ("__main__",),
    ),
}
"""Layers from the ground up, on floors that only the picture knows.

A module may import from the lines above its own and from its own room, not from its neighbours on the same line: so
``networks`` and ``data`` know nothing of diffusion.
"""

LAYERS = [layer for layers in FLOORS.values() for layer in layers]
HEIGHT = {room: height for height, layer in enumerate(LAYERS) for room in layer}


@dataclass(frozen=True)
class Import:
    """One imported module.

    Args:
        target: Its absolute name: ``lightning.pytorch``, ``diffusion_lab.data.order``.
        location: File and line of the import.
        for_types_only: Whether only type checkers see it.
    """

    target: str
    location: str
    for_types_only: bool

    @property
    def library(self) -> str:
        """The first part of the name: ``lightning``."""
        return self.target.partition(".")[0]


def project_files() -> dict[str, str]:
    """Return the text of each file of the package by its path inside the package."""
    folder = ROOT / PACKAGE
    files = sorted(folder.rglob("*.py"))
    return {file.relative_to(folder).as_posix(): file.read_text(encoding="utf-8") for file in files}


def imports_of(sources: Mapping[str, str]) -> dict[str, list[Import]]:
    """Return the imports of each module, by its absolute name.

    Args:
        sources: Text of each file by its path inside the package.
    """
    modules = {module_name(file) for file in sources}
    imports = {}
    for file, text in sources.items():
        reader = _ImportReader(file, modules)
        reader.visit(ast.parse(text))
        imports[module_name(file)] = reader.imports
    return imports


def module_name(file: str) -> str:
    """Return the module in a file of the package: ``data/order.py`` is ``diffusion_lab.data.order``."""
    parts = [PACKAGE, *Path(file).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str:
    """Return the room of a module: ``data`` for ``diffusion_lab.data.order``, "" for the package itself.

    The module ``__main__`` of any room is a program, above everything.
    """
    if module.endswith(".__main__"):
        return "__main__"
    return module.removeprefix(PACKAGE).removeprefix(".").partition(".")[0]


class _ImportReader(ast.NodeVisitor):
    """Collects the imports of one file."""

    def __init__(self, file: str, modules: set[str]) -> None:
        self.file, self.modules = file, modules
        self.for_types_only = False
        self.imports: list[Import] = []

    def visit_If(self, node: ast.If) -> None:
        before, self.for_types_only = self.for_types_only, "TYPE_CHECKING" in ast.unparse(node.test)
        for child in node.body:
            self.visit(child)
        self.for_types_only = before
        for child in node.orelse:
            self.visit(child)

    def visit_Import(self, node: ast.Import) -> None:
        for name in node.names:
            self._add(name.name, node.lineno)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        folder = [PACKAGE, *Path(self.file).parts[:-1]]
        above = folder[: len(folder) - node.level + 1] if node.level else []
        source = ".".join([*above, *([node.module] if node.module else [])])
        names = [f"{source}.{name.name}" for name in node.names]
        targets = [name if name in self.modules or source == PACKAGE else source for name in names]
        for target in dict.fromkeys(targets):
            self._add(target, node.lineno)

    def _add(self, target: str, line: int) -> None:
        self.imports.append(Import(target, f"{PACKAGE}/{self.file}:{line}", self.for_types_only))
