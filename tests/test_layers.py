"""The package has layers: imports point downwards only, and sampling stays light."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest

from scripts.layers import HEIGHT, PACKAGE, Import, imports_of, project_files, room_of

SAMPLING_PATH = ("samplers", "sampling", "ema", "checkpoint", "create", "denoiser", "guidance", "generation")
TRAINING_LIBRARIES = {"lightning", "pytorch_lightning", "torchmetrics", "wandb", "hydra"}
# So that --help is fast.
READ_BEFORE_TORCH = ("config", "v1", "sweeps", "cli", "samplers", "diffusion.parameterization")
HEAVY_LIBRARIES = {"torch", "torchvision", *TRAINING_LIBRARIES - {"hydra"}}
HYDRA = {"hydra": ("cli", "sweeps"), "omegaconf": ("cli", "sweeps", "faults", "commands")}
"""Libraries of the command line, and the rooms that may import them."""
HOOK = f"{PACKAGE}.runtime.torchvision_import"


def upward_imports(imports: Mapping[str, list[Import]]) -> Iterator[str]:
    for module, imported_modules in imports.items():
        room = room_of(module)
        if not room:
            continue  # the package itself only names what it exports
        if room not in HEIGHT:
            yield f"{module} has no layer: add {room!r} to FLOORS"
            continue
        for imported in imported_modules:
            source = room_of(imported.target)
            if imported.library != PACKAGE or source == room:
                continue
            if source not in HEIGHT:
                yield f"{imported.location} imports {imported.target}, which has no layer"
            elif HEIGHT[source] >= HEIGHT[room]:
                yield f"{imported.location} imports {imported.target}, which is not below {room}"


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
        f"{imported.location} imports {imported.target}, which {start} must not need"
        for module in reached_from(f"{PACKAGE}.{start}", imports)
        for imported in imports[module]
        if imported.library in unwanted and not imported.for_types_only
    )


@pytest.fixture(scope="module")
def project() -> dict[str, list[Import]]:
    return imports_of(project_files())


def test_imports_point_downwards(project: dict[str, list[Import]]) -> None:
    faults = list(upward_imports(project))
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
        f"{imported.location} imports {imported.target}"
        for module, imported_modules in project.items()
        for imported in imported_modules
        if imported.library in HYDRA and room_of(module) not in HYDRA[imported.library]
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
    (fault,) = upward_imports(imports)
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
    assert len(list(upward_imports(imports_of({file: source, "diffusion/level.py": ""})))) == 1


def test_downward_imports_pass() -> None:
    sources = {
        "training/fit.py": "from .module import Module\nfrom ..checkpoint import save",
        "training/module.py": "from diffusion_lab.shapes import Batch\nimport torch",
    }
    assert not list(upward_imports(imports_of(sources)))


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
