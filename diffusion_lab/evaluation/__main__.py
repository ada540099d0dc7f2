"""``python -m diffusion_lab.evaluation FOLDER...`` is ``evaluate.py samples=[FOLDER,...]``."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Sequence

from diffusion_lab.console.command_line import ROOT, setting

WITH_VALUE = ("--config-dir", "-cd", "--config-name", "-cn", "--config-path", "-cp", "--cfg", "-c", "--package", "-p")
"""Options of Hydra that the next word belongs to."""


def arguments_for_evaluate(words: Sequence[str]) -> list[str]:
    """Return the arguments of ``evaluate.py``, in which folders are named by ``samples``.

    >>> arguments_for_evaluate(["a", "b c", "reference=digits"])
    ['reference=digits', 'samples=[a,"b c"]']
    """
    before = ["", *words]
    is_folder = [
        "=" not in word and not word.startswith("-") and previous not in WITH_VALUE
        for previous, word in zip(before, words, strict=False)
    ]
    folders = [word for word, names_folder in zip(words, is_folder, strict=True) if names_folder]
    others = [word for word, names_folder in zip(words, is_folder, strict=True) if not names_folder]
    return [*others, *([setting("samples", folders)] if folders else [])]


def main() -> None:
    """Run ``evaluate.py``."""
    program = ROOT / "evaluate.py"
    sys.argv = [str(program), *arguments_for_evaluate(sys.argv[1:])]
    runpy.run_path(str(program), run_name="__main__")


if __name__ == "__main__":
    main()
