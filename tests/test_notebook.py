"""The notebook runs from top to bottom, with and without a run of `make demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from diffusion_lab import create_ddpm

nbformat = pytest.importorskip("nbformat", reason="the notebooks extra is not installed")
nbclient = pytest.importorskip("nbclient", reason="the notebooks extra is not installed")
kernelspec = pytest.importorskip("ipykernel.kernelspec", reason="the notebooks extra is not installed")

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "notebooks/quickstart.ipynb"
EVALUATION = ROOT / "notebooks/evaluation.ipynb"


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebook_is_valid_and_each_cell_has_a_name(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert len({cell["id"] for cell in notebook.cells}) == len(notebook.cells)


def test_notebook_runs_and_shows_its_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = execute(tmp_path, monkeypatch)
    assert pictures(notebook) == {"data", "sampling", "guidance", "seeds", "loading"}
    assert "from the model above" in printed(notebook, "loading")


def test_notebook_loads_the_run_of_the_demo_where_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "outputs/demo/checkpoints").mkdir(parents=True)
    write_checkpoint(tmp_path / "outputs/demo/checkpoints/best.ckpt")
    notebook = execute(tmp_path, monkeypatch, only={"imports", "data", "model", "training", "sampling", "loading"})
    assert "from outputs/demo" in printed(notebook, "loading")


def test_notebook_of_evaluation_runs_and_measures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = execute(tmp_path, monkeypatch, path=EVALUATION)
    assert pictures(notebook) == {"curve"}
    assert "kid_pixels" in printed(notebook, "measure")
    assert "copies" in printed(notebook, "copies")
    assert "precision_pixels" in printed(notebook, "folders")
    assert "There is no run in outputs/demo" in printed(notebook, "checkpoint")


def execute(folder: Path, monkeypatch: pytest.MonkeyPatch, only: set[str] | None = None, path: Path = NOTEBOOK) -> Any:
    """Run a notebook (or its cells ``only``) in ``folder`` by this very interpreter, with a short training."""
    from jupyter_client.kernelspec import KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager

    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR"):
        monkeypatch.setenv(name, str(folder / ".jupyter"))  # nothing of the user's is read or written
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("QUICKSTART_STEPS", "3")
    # A kernel of our own: the user's "python3" may be another interpreter.
    kernelspec.write_kernel_spec(str(folder / ".kernels/this"))
    specs = KernelSpecManager(kernel_dirs=[str(folder / ".kernels")], ensure_native_kernel=False)
    manager = AsyncKernelManager(kernel_name="this", kernel_spec_manager=specs)
    notebook = nbformat.read(path, as_version=4)
    notebook.cells = [cell for cell in notebook.cells if only is None or cell["id"] in only]
    client = nbclient.NotebookClient(notebook, km=manager, timeout=300, resources={"metadata": {"path": str(folder)}})
    return client.execute()


def pictures(notebook: Any) -> set[str]:
    """Return the ids of the cells that show an image."""
    return {
        cell["id"]
        for cell in notebook.cells
        if any("image/png" in output.get("data", {}) for output in cell.get("outputs", []))
    }


def printed(notebook: Any, cell_id: str) -> str:
    cell = next(cell for cell in notebook.cells if cell["id"] == cell_id)
    return "".join(output["text"] for output in cell["outputs"] if output["output_type"] == "stream")


def write_checkpoint(path: Path) -> None:
    """A checkpoint as a run leaves it, of an untrained model."""
    architecture = {
        "image_size": 8,
        "in_channels": 1,
        "model_channels": 8,
        "channel_multipliers": [1, 2],
        "use_attention": [False, True],
    }
    diffusion = {"num_timesteps": 1000, "beta_schedule": "cosine", "beta_start": 0.0001, "beta_end": 0.02}
    conditioning = {"type": "class", "num_classes": 10, "class_dropout_prob": 0.1}
    denoiser = create_ddpm(**architecture, num_classes=10)
    weights = denoiser.state_dict()
    torch.save(
        {
            "diffusion_lab": {
                "format": 1,
                "config": {
                    "model": {"architecture": architecture, "diffusion": diffusion, "conditioning": conditioning}
                },
                "class_names": [str(digit) for digit in range(10)],
                "step": 3,
            },
            "state_dict": {
                f"{prefix}.{name}": w for prefix in ("denoiser", "ema.average") for name, w in weights.items()
            },
        },
        path,
    )
