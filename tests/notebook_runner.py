"""Runs a notebook without a kernel: ``python -m tests.notebook_runner NOTEBOOK RESULT``, started by ``tests.programs``.

The launcher of the programs has imported the libraries already, and so have the commands in the notebook's cells, which
are forks of this process: seconds instead of a minute. Unlike in IPython, a command that fails ends the run.
"""

from __future__ import annotations

import base64
import os
import runpy
import shlex
import sys
from pathlib import Path
from typing import Any

import matplotlib
import nbformat
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from matplotlib_inline import backend_inline


def main() -> None:
    source, result = sys.argv[1:]
    notebook = nbformat.read(source, as_version=4)
    shell = InteractiveShell.instance()
    matplotlib.use("module://matplotlib_inline.backend_inline")
    backend_inline.configure_inline_support(shell, "inline")
    shell.system = lambda command: run_command(shlex.split(shell.var_expand(command)))
    for cell in notebook.cells:
        if cell["cell_type"] == "code":
            with capture_output() as captured:
                done = shell.run_cell(cell["source"], store_history=True)
            if not done.success:
                raise SystemExit(f"cell {cell['id']} failed:\n{captured.stdout}{captured.stderr}")
            shown = [each.data for each in captured.outputs]
            if done.result is not None:
                shown.append(shell.display_formatter.format(done.result)[0])
            cell["outputs"] = outputs(captured.stdout, shown)
    Path(result).write_text(nbformat.writes(notebook), encoding="utf-8")


def run_command(words: list[str]) -> None:
    """Run ``python -m MODULE ARGUMENTS`` in a fork of this process, and raise RuntimeError if it fails."""
    python, option, module, *arguments = words
    assert (python, option) == ("python", "-m")
    child = os.fork()
    if child:
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
            raise RuntimeError(f"{shlex.join(words)} has failed")
        return
    status = 1
    try:
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
        sys.argv = [module, *arguments]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def outputs(printed: str, shown: list[dict[str, Any]]) -> list[Any]:
    """Return what a cell has printed and shown, each by its MIME types, as a notebook stores it."""
    found = [nbformat.v4.new_output("stream", name="stdout", text=printed)] if printed else []
    for data in shown:
        as_text = {k: base64.b64encode(v).decode() if isinstance(v, bytes) else v for k, v in data.items()}
        found.append(nbformat.v4.new_output("display_data", as_text))
    return found


if __name__ == "__main__":
    main()
