"""Run the notebooks at full size and store them with their outputs, as GitHub and the documentation show them.

    python -m scripts.make_notebooks           # all: several minutes
    python -m scripts.make_notebooks NAME ...  # some

--folder DIR names the folder in which they run; trainings that are finished there are not repeated.

Figures that the documentation uses are written to docs/images/ as well. Outputs contain nothing that depends on the
machine or the time: no paths, no timings, no addresses of objects. Standard error, and outputs of cells with the tag
``remove-output``, such as the progress of a training run, are not stored.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import hashlib
import io
import json
import os
import re
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageChops, ImageStat

if TYPE_CHECKING:
    from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
DOCS_IMAGES = {
    ("noise_and_samplers", "process"): "noise-processes.png",
    ("noise_and_samplers", "levels"): "noise-equal-log-snr.png",
    ("noise_and_samplers", "samplers"): "samplers-side-by-side.png",
    ("noise_and_samplers", "error"): "sampler-error.png",
    ("noise_and_samplers", "tradeoff"): "guidance-tradeoff.png",
    ("judge_a_model", "damage"): "metrics-and-faults.png",
    ("judge_a_model", "number"): "number-of-samples.png",
    ("read_a_sweep", "means"): "sweep-interaction.png",
}
"""Files in docs/images/ by the notebook and the cell whose figure they are."""

REMOVE_OUTPUT = "remove-output"
"""Tag of cells without stored output; Jupyter Book and MyST-NB know it as well."""

EXECUTED = "diffusion_lab"
"""Key of the notebook's metadata under which the fingerprint of the code is stored that made the outputs."""

CELL_TIMEOUT = 3600
PALETTES = (64, 128, 256)
"""Numbers of colours that a stored figure may have."""

MAX_ERROR = 3.5
"""Mean error per pixel and channel, of 255, up to which fewer colours will do."""


def read(path: Path) -> NotebookNode:
    """Return a stored notebook."""
    import nbformat

    return nbformat.read(path, as_version=4)  # type: ignore[no-any-return, no-untyped-call]


def fingerprint(notebook: NotebookNode) -> str:
    """Return the SHA-256, in hexadecimal, of all code of a notebook."""
    code = [cell["source"] for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return hashlib.sha256(json.dumps(code).encode()).hexdigest()


def execute(notebook: NotebookNode, folder: Path, environment: Mapping[str, str]) -> NotebookNode:
    """Run a notebook in ``folder`` with this Python, and return it with its outputs.

    Nothing of the user's Jupyter is read or written, and caches are in ``folder``.

    Raises:
        nbclient.exceptions.CellExecutionError: A cell has failed.
    """
    from ipykernel.kernelspec import write_kernel_spec
    from jupyter_client.kernelspec import KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    with tempfile.TemporaryDirectory() as jupyter:
        settings = {f"JUPYTER_{kind}_DIR": jupyter for kind in ("RUNTIME", "DATA", "CONFIG")}
        settings |= {"IPYTHONDIR": jupyter, "XDG_CACHE_HOME": str(folder / ".cache")}
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        with _environment({**settings, "PYTHONPATH": path, **environment}):
            # The user's "python3" may be another interpreter.
            write_kernel_spec(str(Path(jupyter, "kernels", "this")))
            specs = KernelSpecManager(kernel_dirs=[str(Path(jupyter, "kernels"))], ensure_native_kernel=False)
            client = NotebookClient(
                notebook,
                km=AsyncKernelManager(kernel_name="this", kernel_spec_manager=specs),
                timeout=CELL_TIMEOUT,
                record_timing=False,
                resources={"metadata": {"path": str(folder)}},
            )
            try:
                return client.execute()
            except CellExecutionError as error:
                error.add_note(_last_lines_of_commands(notebook))
                raise


def _last_lines_of_commands(notebook: NotebookNode) -> str:
    """Return what the last command printed: IPython goes on after a command that has failed."""
    commands = [cell for cell in notebook["cells"] if REMOVE_OUTPUT in cell["metadata"].get("tags", ())]
    texts = ["".join(output.get("text", "") for output in cell["outputs"]) for cell in commands]
    return "\n".join(f"The last command printed:\n{text[-2000:]}" for text in texts[-1:])


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def cleaned(notebook: NotebookNode) -> NotebookNode:
    """Return an executed notebook with only what is to be stored.

    Raises:
        ValueError: An output contains a path or the name of this machine.
    """
    count = 0
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            continue
        count += 1
        cell["execution_count"] = count
        cell["metadata"].pop("execution", None)
        outputs = [] if REMOVE_OUTPUT in cell["metadata"].get("tags", ()) else cell["outputs"]
        outputs = [output for output in outputs if output.get("name") != "stderr"]
        cell["outputs"] = [_cleaned_output(output, count) for output in outputs]
        found = machine_traces(cell["outputs"])
        if found:
            raise ValueError(f"the output of cell {cell['id']} must not depend on the machine, got {found[0]!r}")
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook["metadata"] = {
        "kernelspec": kernel,
        "language_info": {"name": "python", "pygments_lexer": "ipython3"},  # for the commands after "!"
        EXECUTED: {"code_sha256": fingerprint(notebook)},
    }
    return notebook


def _cleaned_output(output: dict[str, Any], count: int) -> dict[str, Any]:
    if "execution_count" in output:
        output["execution_count"] = count
    data = output.get("data", {})
    data.pop("image/jpeg", None)
    if "image/png" in data:
        data["image/png"] = base64.b64encode(small_png(base64.b64decode(data["image/png"]))).decode() + "\n"
    if "text/plain" in data:
        data["text/plain"] = re.sub(r" at 0x[0-9a-f]+", "", data["text/plain"])
    return output


def small_png(content: bytes) -> bytes:
    """Return a PNG with at most 256 colours and without metadata."""
    with Image.open(io.BytesIO(content)) as image:
        opaque = Image.new("RGB", image.size, "white")
        rgba = image.convert("RGBA")
        opaque.paste(rgba, mask=rgba.getchannel("A"))
    for colors in PALETTES:
        reduced = opaque.quantize(colors, Image.Quantize.MEDIANCUT, kmeans=1, dither=Image.Dither.NONE)
        error = ImageStat.Stat(ImageChops.difference(opaque, reduced.convert("RGB"))).mean
        if sum(error) / len(error) <= MAX_ERROR:
            break
    file = io.BytesIO()
    reduced.save(file, "PNG", optimize=True)
    return file.getvalue()


def machine_traces(outputs: list[dict[str, Any]]) -> list[str]:
    """Return texts in outputs that reveal the machine: absolute paths of folders, its name, addresses of objects."""
    texts = [output.get("text", "") for output in outputs]
    texts += [value for output in outputs for kind, value in output.get("data", {}).items() if "image/" not in kind]
    texts += ["\n".join(output.get("traceback", ())) for output in outputs]
    host = re.escape(socket.gethostname())
    pattern = (
        rf"(?:^|[\s'\"=(])(?:/(?:home|root|tmp|work|usr|var|opt|Users|mnt)/\S*|[A-Z]:\\\S+)|0x[0-9a-f]{{6,}}|\b{host}\b"
    )
    return [match.group().strip() for text in texts for match in re.finditer(pattern, str(text))]


def figures(notebook: NotebookNode, cell_id: str) -> list[bytes]:
    """Return the PNG files that a cell shows."""
    cell = next(cell for cell in notebook["cells"] if cell["id"] == cell_id)
    pictures = [output.get("data", {}).get("image/png") for output in cell["outputs"]]
    return [base64.b64decode(picture) for picture in pictures if picture]


def write(path: Path, notebook: NotebookNode) -> None:
    """Store a notebook, and its figures for the documentation."""
    import nbformat

    nbformat.validate(notebook)
    path.write_text(nbformat.writes(notebook, indent=1) + "\n", encoding="utf-8")  # type: ignore[no-untyped-call]
    for (name, cell_id), file in DOCS_IMAGES.items():
        if name == path.stem:
            (ROOT / "docs" / "images" / file).write_bytes(figures(notebook, cell_id)[0])


def main() -> None:
    """Run the notebooks named on the command line, or all."""
    parser = argparse.ArgumentParser(description="Run the notebooks and store them with their outputs.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="file name without .ipynb; default: all")
    parser.add_argument("--folder", type=Path, help="folder in which they run; default: a temporary one")
    arguments = parser.parse_args()
    names = arguments.names or sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            path, start = NOTEBOOKS / f"{name}.ipynb", time.monotonic()
            write(path, cleaned(execute(read(path), folder, {"DIFFUSION_LAB_SMALL": "0"})))
            size = path.stat().st_size / 1024
            print(f"{path.relative_to(ROOT)}: {time.monotonic() - start:.0f} s, {size:.0f} KB", file=sys.stderr)


if __name__ == "__main__":
    main()
