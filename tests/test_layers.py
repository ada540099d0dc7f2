"""The package has layers: imports point downwards only, and sampling stays light.

The source is read, not run, so imports inside functions and those for type checking are seen as well.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = "diffusion_lab"
ROOT = Path(__file__).resolve().parents[1]

# From the ground up. A module may import from the lines above its own and from its own folder, not from its
# neighbours on the same line: so `networks` and `data` know nothing of diffusion.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("shapes", "ema_formats", "version", "console", "cpu"),
    ("faults",),
    ("runtime",),
    ("files", "image_grids"),
    ("diffusion", "networks", "data"),
    ("denoiser",),
    ("guidance", "samplers"),
    ("config",),
    ("v1", "sweeps"),
    ("cli",),
    ("terminal_noise", "run_images"),
    ("create", "finite_samples", "ema", "sampling_request"),
    ("sampling", "checkpoint"),
    ("runs",),
    ("generation",),
    ("features",),
    ("evaluation",),
    ("training",),
    ("commands",),
    ("__main__",),
)
HEIGHT = {name: height for height, layer in enumerate(LAYERS) for name in layer}

SAMPLING_PATH = ("samplers", "sampling", "checkpoint", "create", "denoiser", "guidance", "generation")
TRAINING_LIBRARIES = {"lightning", "pytorch_lightning", "torchmetrics", "wandb", "hydra"}
# So that --help is fast.
READ_BEFORE_TORCH = ("config", "v1", "sweeps", "cli", "samplers", "diffusion.parameterization")
HEAVY_LIBRARIES = {"torch", "torchvision", *TRAINING_LIBRARIES - {"hydra"}}
HYDRA = {"hydra": ("cli", "sweeps"), "omegaconf": ("cli", "sweeps", "config", "commands")}
"""Libraries of the command line, and the rooms that may import them."""
HOOK = f"{PACKAGE}.runtime.torchvision_import"


@dataclass(frozen=True)
class Import:
    """One imported module, absolute: `lightning.pytorch`, `diffusion_lab.data.order`."""

    target: str
    place: str
    for_types_only: bool

    @property
    def library(self) -> str:
        return self.target.partition(".")[0]


class Imports(ast.NodeVisitor):
    """Collects what one file imports."""

    def __init__(self, file: str, known: set[str]) -> None:
        self.file, self.known = file, known
        self.for_types_only = False
        self.found: list[Import] = []

    def visit_If(self, node: ast.If) -> None:
        before, self.for_types_only = self.for_types_only, "TYPE_CHECKING" in ast.unparse(node.test)
        for child in node.body:
            self.visit(child)
        self.for_types_only = before
        for child in node.orelse:
            self.visit(child)

    def visit_Import(self, node: ast.Import) -> None:
        for name in node.names:
            self.add(name.name, node.lineno)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        folder = [PACKAGE, *Path(self.file).parts[:-1]]
        above = folder[: len(folder) - node.level + 1] if node.level else []
        source = ".".join([*above, *([node.module] if node.module else [])])
        inner = [f"{source}.{name.name}" for name in node.names]
        targets = [name if name in self.known or source == PACKAGE else source for name in inner]
        for target in dict.fromkeys(targets):
            self.add(target, node.lineno)

    def add(self, target: str, line: int) -> None:
        self.found.append(Import(target, f"{PACKAGE}/{self.file}:{line}", self.for_types_only))


def module_name(file: str) -> str:
    parts = [PACKAGE, *Path(file).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(sources: Mapping[str, str]) -> dict[str, list[Import]]:
    """Module name → what it imports, for sources given as path inside the package → text."""
    known = {module_name(file) for file in sources}
    imports = {}
    for file, text in sources.items():
        visitor = Imports(file, known)
        visitor.visit(ast.parse(text))
        imports[module_name(file)] = visitor.found
    return imports


def part_of(module: str) -> str:
    """Return the entry of a module in LAYERS: `diffusion_lab.data.order` → `data`; '' for the package itself.

    The `__main__` of any folder is a program, above everything.
    """
    if module.endswith(".__main__"):
        return "__main__"
    return module.removeprefix(PACKAGE).removeprefix(".").partition(".")[0]


def wrong_directions(imports: Mapping[str, list[Import]]) -> Iterator[str]:
    for module, found in imports.items():
        here = part_of(module)
        if not here:
            continue  # the package itself only names what it exports
        if here not in HEIGHT:
            yield f"{module} has no layer: give {here!r} a place in LAYERS"
            continue
        for imported in found:
            there = part_of(imported.target)
            if imported.library != PACKAGE or there == here:
                continue
            if there not in HEIGHT:
                yield f"{imported.place} imports {imported.target}, which has no layer"
            elif HEIGHT[there] >= HEIGHT[here]:
                yield f"{imported.place} imports {imported.target}, which is not below {here}"


def reached_from(start: str, imports: Mapping[str, list[Import]]) -> set[str]:
    """All project modules that run when `start` (with its submodules) does: parent packages run as well.

    Not the hook: it asks for torch only after torchvision did.
    """
    waiting = [module for module in imports if module == start or module.startswith(f"{start}.")]
    reached: set[str] = set()
    while waiting:
        module = waiting.pop()
        if module in reached or module not in imports or module == HOOK:
            continue
        reached.add(module)
        waiting.append(module.rpartition(".")[0])
        waiting.extend(i.target for i in imports[module] if not i.for_types_only)
    return reached


def libraries_reached(start: str, imports: Mapping[str, list[Import]], unwanted: set[str]) -> list[str]:
    return sorted(
        f"{imported.place} imports {imported.target}, which {start} must not need"
        for module in reached_from(f"{PACKAGE}.{start}", imports)
        for imported in imports[module]
        if imported.library in unwanted and not imported.for_types_only
    )


@pytest.fixture(scope="module")
def project() -> dict[str, list[Import]]:
    folder = ROOT / PACKAGE
    files = sorted(folder.rglob("*.py"))
    return imports_of({str(file.relative_to(folder)): file.read_text(encoding="utf-8") for file in files})


def test_imports_point_downwards(project: dict[str, list[Import]]) -> None:
    faults = list(wrong_directions(project))
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("start", SAMPLING_PATH)
def test_sampling_needs_no_training_library(start: str, project: dict[str, list[Import]]) -> None:
    faults = libraries_reached(start, project, TRAINING_LIBRARIES)
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("start", READ_BEFORE_TORCH)
def test_help_imports_nothing_heavy(start: str, project: dict[str, list[Import]]) -> None:
    faults = libraries_reached(start, project, HEAVY_LIBRARIES)
    assert not faults, "\n".join(faults)


def test_features_need_no_training_library(project: dict[str, list[Import]]) -> None:
    faults = libraries_reached("features", project, TRAINING_LIBRARIES - {"hydra"})  # which reports mistakes
    assert not faults, "\n".join(faults)


def test_only_command_lines_and_sweeps_import_hydra(project: dict[str, list[Import]]) -> None:
    faults = [
        f"{imported.place} imports {imported.target}"
        for module, found in project.items()
        for imported in found
        if imported.library in HYDRA and part_of(module) not in HYDRA[imported.library]
    ]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(
    "source",
    [
        "from diffusion_lab.training import fit",
        "from diffusion_lab import training",
        "import diffusion_lab.training.fit",
        "from .training.fit import train",
        "from . import training",
        "def late():\n    from diffusion_lab.training.fit import train",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from diffusion_lab.training import fit",
    ],
)
def test_an_upward_import_is_found(source: str) -> None:
    imports = imports_of({"denoiser.py": source, "training/__init__.py": "", "training/fit.py": ""})
    (fault,) = wrong_directions(imports)
    assert fault.startswith(f"{PACKAGE}/denoiser.py:")
    assert fault.endswith("which is not below denoiser")


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("data/order.py", "from ..diffusion.level import Level"),
        ("denoiser.py", "from diffusion_lab import DiffusionSampler"),
        ("utils.py", ""),
    ],
)
def test_forbidden_imports_are_found(file: str, source: str) -> None:
    assert len(list(wrong_directions(imports_of({file: source, "diffusion/level.py": ""})))) == 1


def test_downward_imports_pass() -> None:
    sources = {
        "training/fit.py": "from .module import Module\nfrom ..checkpoint import save",
        "training/module.py": "from diffusion_lab.shapes import Batch\nimport torch",
    }
    assert not list(wrong_directions(imports_of(sources)))


@pytest.mark.parametrize("detour", ["from diffusion_lab.data.split import f", "from .data import split"])
def test_a_library_is_found_behind_a_detour(detour: str) -> None:
    """Importing data.split runs data/__init__.py first, and that imports what imports Lightning."""
    sources = {
        "generate.py": detour,
        "data/__init__.py": "from diffusion_lab.data.datamodule import ImageDataModule",
        "data/datamodule.py": "from lightning.pytorch import LightningDataModule",
        "data/split.py": "",
    }
    (fault,) = libraries_reached("generate", imports_of(sources), TRAINING_LIBRARIES)
    assert fault.startswith(f"{PACKAGE}/data/datamodule.py:1 imports lightning.pytorch")


def test_types_alone_need_no_library() -> None:
    source = "if TYPE_CHECKING:\n    import wandb\nelse:\n    import torchmetrics"
    (fault,) = libraries_reached("sampling", imports_of({"sampling.py": source}), TRAINING_LIBRARIES)
    assert "torchmetrics" in fault
