"""``python -m diffusion_lab.evaluation FOLDER...`` is ``diffusion-lab evaluate samples=[FOLDER,...]``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from diffusion_lab.commands import evaluate
from diffusion_lab.console.command_line import setting

WITH_VALUE = ("--config-dir", "-cd", "--config-name", "-cn", "--config-path", "-cp", "--cfg", "-c", "--package", "-p")
"""Options of Hydra that take a value."""


def arguments_for_evaluate(words: Sequence[str]) -> list[str]:
    """Return the arguments of ``diffusion-lab evaluate``, with the folders as the value of ``samples``.

    >>> arguments_for_evaluate(["a", "b c", "reference=digits"])
    ['reference=digits', 'samples=[a,"b c"]']
    """
    is_folder = [
        "=" not in word and not word.startswith("-") and previous not in WITH_VALUE
        for previous, word in zip(["", *words], words, strict=False)
    ]
    folders = [word for word, is_path in zip(words, is_folder, strict=True) if is_path]
    others = [word for word, is_path in zip(words, is_folder, strict=True) if not is_path]
    return [*others, *([setting("samples", folders)] if folders else [])]


if __name__ == "__main__":
    evaluate.main(arguments_for_evaluate(sys.argv[1:]))
