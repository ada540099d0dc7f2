"""One set of weights and what explains it, as safetensors: to publish, or to read without this project."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from diffusion_lab.checkpoint.files import HashingWriter, Manifest, step_of, verify
from diffusion_lab.whole_files import written_whole

EXPORT_SUFFIX = ".safetensors"
ABOUT = "diffusion_lab"
"""Key of the file's metadata that holds, as JSON, all but the weights."""


def write_export(path: Path, weights: Mapping[str, Tensor], about: dict[str, Any]) -> None:
    """Write weights by the denoiser's own names, all or nothing.

    Args:
        path: The file, ending in ``.safetensors``.
        weights: By name.
        about: Plain containers that JSON can hold.
    """
    if path.suffix != EXPORT_SUFFIX:
        raise ValueError(f"an export must be called something{EXPORT_SUFFIX}, got {str(path)!r}")
    tensors = {name: tensor.contiguous() for name, tensor in weights.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    Manifest.place(path).unlink(missing_ok=True)
    with written_whole(path) as partial, partial.open("wb") as file:
        writer = HashingWriter(file)
        writer.write(save(tensors, metadata={ABOUT: json.dumps(about)}))
    Manifest(step_of(path), writer.size, writer.sha256, about.get("config_hash")).write(path)


def read_export(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights of an export and what explains them.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged, or not one of ours.
    """
    if not path.is_file():
        raise FileNotFoundError(f"the checkpoint {path} does not exist")
    verify(path)
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get(ABOUT, "null"))
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{path} is no export, or a damaged one: {error}") from error
    if not isinstance(about, dict):
        raise ValueError(
            f"{path} was not exported from a checkpoint of diffusion_lab: it does not tell the architecture"
        )
    return weights, about
