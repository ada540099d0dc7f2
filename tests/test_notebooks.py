"""The notebooks run from top to bottom at small size, and what is stored was made by their code."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pygments.token import Token

from diffusion_lab import create_ddpm
from tests.docs.test_links import anchors
from tests.programs import Program, shared_launcher

nbformat = pytest.importorskip("nbformat", reason="the notebooks extra is not installed")
pytest.importorskip("nbclient", reason="the notebooks extra is not installed")
pytest.importorskip("ipykernel.kernelspec", reason="the notebooks extra is not installed")
from scripts.make_notebooks import (  # noqa: E402 (it needs the packages above)
    DOCS_IMAGES,
    EXECUTED,
    REMOVE_OUTPUT,
    cleaned,
    execute,
    figures,
    fingerprint,
    machine_traces,
    read,
    small_png,
)

ROOT = Path(__file__).resolve().parent.parent
PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MAX_KB = 360
SMALL = {"DIFFUSION_LAB_SMALL": "1", "OMP_NUM_THREADS": "1"}

every_notebook = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


def test_there_are_five() -> None:
    names = ["judge_a_model", "noise_and_samplers", "own_images", "quickstart", "read_a_sweep"]
    assert [path.stem for path in PATHS] == names


@every_notebook
def test_notebook_is_valid_and_says_what_it_is_for(path: Path) -> None:
    notebook = read(path)
    nbformat.validate(notebook)
    assert len({cell["id"] for cell in notebook.cells}) == len(notebook.cells)
    assert "After this notebook you can" in notebook.cells[0]["source"]
    assert 'os.environ.get("DIFFUSION_LAB_SMALL")' in notebook.cells[1]["source"]


@every_notebook
def test_what_is_stored_was_made_by_this_code(path: Path) -> None:
    notebook = read(path)
    code = [cell for cell in notebook.cells if cell["cell_type"] == "code"]
    assert notebook["metadata"][EXECUTED]["code_sha256"] == fingerprint(notebook), "run `make notebooks`"
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"]
    assert not machine_traces(outputs)
    assert path.stat().st_size < MAX_KB * 1024


@every_notebook
def test_code_is_highlighted_without_errors(path: Path) -> None:
    """Sphinx warns otherwise: a command after "!" must not continue on the next line."""
    lexers = pytest.importorskip("ipython_pygments_lexers")
    for cell in read(path).cells:
        tokens = lexers.IPython3Lexer().get_tokens(cell["source"] if cell["cell_type"] == "code" else "")
        assert not [text for kind, text in tokens if kind is Token.Error], cell["id"]


@every_notebook
def test_links_of_notebooks_resolve(path: Path) -> None:
    for cell in read(path).cells:
        for target in re.findall(r"\]\(([^)\s]+)\)", cell["source"] if cell["cell_type"] == "markdown" else ""):
            if not re.match(r"\w+:", target):
                file, _, anchor = target.partition("#")
                assert (path.parent / file).exists(), f"{target}: no such file"
                assert not anchor or anchor in anchors(path.parent / file), f"{target}: no such heading"


@pytest.mark.parametrize("figure", DOCS_IMAGES, ids=lambda figure: ".".join(figure))
def test_figures_of_the_documentation_are_those_of_the_notebook(figure: tuple[str, str]) -> None:
    name, cell_id = figure
    stored = figures(read(ROOT / f"notebooks/{name}.ipynb"), cell_id)
    assert (ROOT / "docs/images" / DOCS_IMAGES[figure]).read_bytes() == stored[0]
    assert any(DOCS_IMAGES[figure] in page.read_text(encoding="utf-8") for page in (ROOT / "docs").glob("*.md"))


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    """All notebooks, executed in one folder, where one uses the model that another has trained; each on first use."""
    return Executed(tmp_path_factory.mktemp("notebooks"))


class Executed(dict[str, Any]):
    """Executed notebooks by name."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def __missing__(self, name: str) -> Any:
        path, result = ROOT / f"notebooks/{name}.ipynb", self.folder / f"{name}.executed.ipynb"
        words = ("-m", "tests.notebook_runner", str(path), str(result))
        program = Program(shared_launcher(), words, self.folder, SMALL)
        assert program.wait() == 0, program.err[-3000:]
        self[name] = read(result)
        return self[name]


@every_notebook
def test_notebook_runs_and_shows_its_figures(path: Path, executed: Mapping[str, Any]) -> None:
    small = executed[path.stem]
    assert pictures(small) == pictures(read(path))
    assert pictures(small)


def test_quickstart_samples_the_model_that_it_has_stored(executed: Mapping[str, Any]) -> None:
    assert "from the model above" in printed(executed["quickstart"], "loading")


def test_a_kernel_runs_quickstart_which_loads_the_run_of_the_demo_where_there_is_one(tmp_path: Path) -> None:
    (tmp_path / "outputs/demo/checkpoints").mkdir(parents=True)
    write_checkpoint(tmp_path / "outputs/demo/checkpoints/best.ckpt")
    notebook = read(ROOT / "notebooks/quickstart.ipynb")
    needed = {"imports", "data", "model", "training", "sampling", "loading"}
    notebook.cells = [cell for cell in notebook.cells if cell["id"] in needed]
    assert "from outputs/demo" in printed(execute(notebook, tmp_path, SMALL), "loading")


def test_processes_differ_in_scale_alone_and_two_pairs_of_samplers_are_one(executed: Mapping[str, Any]) -> None:
    notebook = executed["noise_and_samplers"]
    assert float(printed(notebook, "levels").rsplit(maxsplit=1)[1]) < 1e-5
    assert all(float(line.rsplit(maxsplit=1)[1]) < 1e-3 for line in printed(notebook, "same").splitlines())
    ddim, *noisy = (float(value) for value in printed(notebook, "stochastic").partition(": ")[2].split(","))
    assert ddim == 0
    assert min(noisy) > 0


def test_own_images_leaves_out_what_is_no_image_and_samples_by_name(executed: Mapping[str, Any]) -> None:
    notebook = executed["own_images"]
    assert "flags/: 13 files" in printed(notebook, "folder")
    assert "33 training images" in printed(notebook, "found")
    assert "'damaged': 1" in printed(notebook, "found")


def test_all_jobs_of_the_sweep_are_compared(executed: Mapping[str, Any]) -> None:
    notebook = executed["read_a_sweep"]
    assert "8 jobs, states: finished\n1 group of comparable jobs" in printed(notebook, "records")
    assert "report.html is there" in printed(notebook, "records")
    assert printed(notebook, "pairs").count("±") == 3


def test_images_of_a_folder_are_judged_with_intervals(executed: Mapping[str, Any]) -> None:
    notebook = executed["judge_a_model"]
    assert re.search(r"^precision_pixels +[\d.]+  from [\d.]+ to [\d.]+, real", printed(notebook, "folders"), re.M)
    assert "1438 images in the reference" in printed(notebook, "features")


def test_only_what_does_not_depend_on_the_machine_is_stored() -> None:
    notebook = nbformat.v4.new_notebook()
    shown = nbformat.v4.new_output("execute_result", {"text/plain": "<Image at 0x7f00112233aa>"}, execution_count=7)
    said = [nbformat.v4.new_output("stream", name=name, text="3 images\n") for name in ("stdout", "stderr")]
    progress = nbformat.v4.new_code_cell("!train", outputs=said, metadata={"tags": [REMOVE_OUTPUT]})
    notebook.cells = [nbformat.v4.new_code_cell("image", outputs=[shown, *said]), progress]
    first, second = cleaned(notebook).cells
    assert [output.get("name") or output["data"]["text/plain"] for output in first["outputs"]] == ["<Image>", "stdout"]
    assert not second["outputs"]
    assert [first["execution_count"], first["outputs"][0]["execution_count"], second["execution_count"]] == [1, 1, 2]


@pytest.mark.parametrize("text", ["in /home/me/run", "'/tmp/x'", "C:\\Users\\me", "<a at 0x7f00112233aa>"])
def test_output_with_a_trace_of_the_machine_is_refused(text: str) -> None:
    said = nbformat.v4.new_output("stream", name="stdout", text=text)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("", id="here", outputs=[said])])
    with pytest.raises(ValueError, match="cell here must not depend on the machine"):
        cleaned(notebook)
    assert not machine_traces(
        [nbformat.v4.new_output("stream", name="stdout", text="outputs/run, 1/2, https://a/tmp/")]
    )


def test_stored_figures_have_few_colours_and_look_the_same() -> None:
    pixels = np.random.default_rng(0).integers(0, 40, (16, 16, 3), dtype=np.uint8) * 6
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    with Image.open(io.BytesIO(small_png(file.getvalue()))) as image:
        assert np.abs(np.asarray(image.convert("RGB")).astype(int) - pixels).mean() < 8
        assert not image.info


def pictures(notebook: Any) -> set[str]:
    """Return the ids of the cells that show an image which can be opened."""
    found = {cell["id"]: figures(notebook, cell["id"]) for cell in notebook.cells if cell["cell_type"] == "code"}
    for content in (content for contents in found.values() for content in contents):
        with Image.open(io.BytesIO(content)) as image:
            image.load()
    return {name for name, contents in found.items() if contents}


def printed(notebook: Any, cell_id: str) -> str:
    cell = next(cell for cell in notebook.cells if cell["id"] == cell_id)
    return "".join(output["text"] for output in cell["outputs"] if output.get("name") == "stdout")


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
