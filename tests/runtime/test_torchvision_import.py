"""Each case runs in a separate process, to test the state of a fresh interpreter."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(code: str, *import_first: Path) -> str:
    """Run `code` in a new interpreter, with these folders at the front of its path, for what it prints."""
    path = os.pathsep.join(map(str, (*import_first, ROOT)))
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def fake_torchvision(folder: Path, extension: str) -> Path:
    """A package as torchvision is built: `extension` first, then a registration that needs the operators."""
    package = folder / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from . import extension\nimport torch\n"
        "torch.library.register_fake('torchvision::nms')(lambda dets, scores, threshold: dets)\n"
    )
    (package / "extension.py").write_text(textwrap.dedent(extension))
    return folder


def test_importing_the_package_imports_nothing_heavy_and_sampling_repairs_nothing() -> None:
    heavy = run(
        """
        import sys, diffusion_lab
        heavy = {"torch", "torchvision", "lightning", "hydra", "pydantic", "numpy", "wandb"}
        print(sorted(heavy & set(sys.modules)))
        from diffusion_lab import EMA, DiffusionSampler, create_ddpm, load_denoiser
        from diffusion_lab.runtime import torchvision_import
        print([finder for finder in sys.meta_path if isinstance(finder, torchvision_import._Finder)])
        """
    )
    assert heavy.splitlines() == ["[]", "[]"]


def test_the_libraries_that_import_torchvision_can_be_imported() -> None:
    run("import diffusion_lab.training, lightning, torchmetrics, torchvision")


def test_grids_and_transforms_work() -> None:
    shapes = run(
        """
        import diffusion_lab.training, torch
        from torchvision.transforms import v2
        from torchvision.utils import make_grid
        print(tuple(make_grid(torch.zeros(4, 3, 8, 8), nrow=2, padding=1).shape))
        print(tuple(v2.Resize(4)(torch.zeros(3, 8, 8)).shape))
        """
    )
    assert shapes.splitlines() == ["(3, 19, 19)", "(3, 4, 4)"]


def test_the_wrapped_loader_leaves_no_trace_in_the_module() -> None:
    loaders = run(
        """
        import diffusion_lab.training, torchvision.extension as extension
        print(type(extension.__loader__).__name__, type(extension.__spec__.loader).__name__)
        """
    )
    assert loaders == "SourceFileLoader SourceFileLoader"


def test_nothing_is_declared_if_the_binary_loads(tmp_path: Path) -> None:
    loads = """
        import torch
        library = torch.library.Library("torchvision", "DEF")  # what the binary does when it is loaded
        for name in ("nms", "qnms"):
            library.define(name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        """
    declared = run(
        """
        import sys
        from diffusion_lab.runtime import torchvision_import as hook
        hook.install()
        import torchvision
        installed = any(isinstance(finder, hook._Finder) for finder in sys.meta_path)
        print(hook._declarations, hook.declare_missing_operators(), installed)
        """,
        fake_torchvision(tmp_path, loads),
    )
    assert declared == "[] () False"


def test_missing_operators_are_declared_once(tmp_path: Path) -> None:
    declared = run(
        """
        from diffusion_lab.runtime import torchvision_import as hook
        hook.install()
        import torchvision
        print(len(hook._declarations), hook.declare_missing_operators(), len(hook._declarations))
        """,
        fake_torchvision(tmp_path, "import torch"),
    )
    assert declared == "1 () 1"


def test_only_the_operator_that_is_missing_is_declared(tmp_path: Path) -> None:
    half = """
        import torch
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        """
    declared = run(
        """
        from diffusion_lab.runtime import torchvision_import as hook
        hook.install()
        import torchvision, torch
        print(len(hook._declarations), torch.ops.torchvision.qnms.default.name())
        """,
        fake_torchvision(tmp_path, half),
    )
    assert declared == "1 torchvision::qnms"


def test_without_the_hook_the_import_fails(tmp_path: Path) -> None:
    """The fake package is a fair stand-in: it fails as torchvision does."""
    code = "import torchvision"
    with pytest.raises(AssertionError, match="torchvision::nms does not exist"):
        run(code, fake_torchvision(tmp_path, "import torch"))


def test_importing_training_repairs_a_failed_import(tmp_path: Path) -> None:
    run(
        """
        try:
            import torchvision
        except RuntimeError:
            pass
        else:
            raise SystemExit("the import was meant to fail")
        import diffusion_lab.training, torchvision
        """,
        fake_torchvision(tmp_path, "import torch"),
    )


def test_installing_again_and_from_threads_adds_one_finder() -> None:
    finders = run(
        """
        import sys
        from concurrent.futures import ThreadPoolExecutor
        from diffusion_lab.runtime import torchvision_import as hook
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: hook.install(), range(64)))
        print(sum(isinstance(finder, hook._Finder) for finder in sys.meta_path))
        """
    )
    assert finders == "1"


def test_threads_that_import_torchvision_at_once_all_succeed(tmp_path: Path) -> None:
    declared = run(
        """
        from concurrent.futures import ThreadPoolExecutor
        from importlib import import_module
        from diffusion_lab.runtime import torchvision_import as hook
        hook.install()
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: import_module("torchvision"), range(16)))
        print(len(hook._declarations))
        """,
        fake_torchvision(tmp_path, "import torch"),
    )
    assert declared == "1"


def test_missing_torchvision_changes_nothing() -> None:
    """The import error is Python's own, and ``find_spec`` finds no torchvision."""
    answer = run(
        """
        import sys
        from importlib.machinery import PathFinder
        import diffusion_lab.training
        from importlib.util import find_spec

        class NoTorchvision(PathFinder):
            @classmethod
            def find_spec(cls, name, path=None, target=None):
                return None if name.startswith("torchvision") else super().find_spec(name, path, target)

        sys.meta_path[sys.meta_path.index(PathFinder)] = NoTorchvision
        sys.meta_path[:] = [f for f in sys.meta_path if "editable" not in repr(f)]
        print(find_spec("torchvision"))
        try:
            import torchvision
        except ModuleNotFoundError as error:
            print(error.name)
        """
    )
    assert answer.splitlines() == ["None", "torchvision"]


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is None, reason="torchvision is not installed")
def test_real_binary_determines_the_declarations() -> None:
    """Declared here if, and only if, the installed binary did not load."""
    agree = run(
        """
        from diffusion_lab.runtime import torchvision_import as hook
        hook.install()
        import torchvision
        print(bool(hook._declarations) != torchvision.extension._has_ops())
        """
    )
    assert agree == "True"
