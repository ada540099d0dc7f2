"""Export of one set of weights with its metadata as safetensors: to publish, or to read without this project."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from diffusion_lab.checkpoint.damage import damaged_error
from diffusion_lab.checkpoint.files import HashingWriter, Manifest, step_of, verify
from diffusion_lab.console.redaction import redacted, without_folders
from diffusion_lab.files.reading import parse_json
from diffusion_lab.files.run_files import CONFIG
from diffusion_lab.files.writing import atomic_write

EXPORT_SUFFIX = ".safetensors"
ABOUT = "diffusion_lab"
"""Key of the safetensors metadata that holds, as JSON, everything except the weights."""

PRIVATE_SECTIONS = ("output", "logger")
"""Sections of the settings that describe folders and accounts, not the model."""


DIGEST = "diffusion_lab_sha256"
"""Key of the SHA-256 over weights and ``ABOUT``: the format itself has no checksum."""


def write_export(path: Path, weights: Mapping[str, Tensor], metadata: dict[str, Any]) -> None:
    """Write weights by the denoiser's names, atomically, with their SHA-256.

    Args:
        path: The file, with suffix ``.safetensors``. An earlier export there is replaced.
        weights: Weights by name.
        metadata: Metadata, in plain containers that JSON supports.

    Raises:
        ValueError: The suffix is wrong, or something else is in the place of the file or its manifest.
    """
    if path.suffix != EXPORT_SUFFIX:
        raise ValueError(f"the name of an export must end in {EXPORT_SUFFIX}, got {str(path)!r}")
    _check_replaceable(path)
    tensors = {name: tensor.contiguous() for name, tensor in weights.items()}
    described = json.dumps(metadata)
    path.parent.mkdir(parents=True, exist_ok=True)
    Manifest.path_of(path).unlink(missing_ok=True)
    with atomic_write(path) as partial, partial.open("wb") as file:
        writer = HashingWriter(file)
        writer.write(save(tensors, metadata={ABOUT: described, DIGEST: _digest(tensors, described)}))
    Manifest(step_of(path), writer.size, writer.sha256, metadata.get("config_hash")).write(path)


def public_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata of a checkpoint that may leave the machine.

    It excludes secrets, the command line, the system, output folders and logging accounts; of paths in other settings
    only the last part is kept.
    """
    config = {key: value for key, value in dict(metadata["config"]).items() if key not in PRIVATE_SECTIONS}
    environment = metadata.get("environment")
    known = environment if isinstance(environment, Mapping) else {}
    return {
        **{key: value for key, value in metadata.items() if key != "wandb_id"},
        "config": without_folders(redacted(config)),
        "environment": {key: known[key] for key in ("python", "packages", "git_commit") if key in known},
    }


def public_name(file: Path) -> str:
    """Return the name of a checkpoint for generated images: its run and file, without the folders above the run.

    Images are shared, and the full path would name the user or the machine. The SHA-256 identifies the checkpoint.
    """
    file = file.resolve()
    run = file.parent.parent
    is_run = (run / CONFIG).is_file() and str(run) != os.path.expanduser("~")
    return f"{run.name}/{file.name}" if is_run else file.name


def read_export(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the weights of an export and its metadata, verified by its manifest, else by its own SHA-256.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged, or not an export of this project.
    """
    if not path.is_file():
        raise FileNotFoundError(f"the checkpoint {path} does not exist")
    has_manifest = verify(path) is not None
    weights, header = _read(path)
    if not has_manifest:
        _matches_its_digest(path, weights, header)
    metadata = parse_json(header.get(ABOUT, "null"), f"the metadata in {path}")
    if not isinstance(metadata, dict):
        raise ValueError(
            f"{path} was not exported from a checkpoint of diffusion_lab: it does not contain the architecture"
        )
    return weights, metadata


def verify_export(path: Path) -> bool:
    """Verify a safetensors file by the SHA-256 inside it; returns whether it has one.

    Raises:
        DamagedCheckpointError: Its weights or metadata are not those that were written.
        ValueError: It is not a safetensors file, or its size does not match its header.
    """
    return _matches_its_digest(path, *_read(path))


def _matches_its_digest(path: Path, weights: Mapping[str, Tensor], header: Mapping[str, str]) -> bool:
    if DIGEST not in header:
        return False
    if header[DIGEST] != _digest(weights, header.get(ABOUT, "")):
        raise damaged_error(path, "is damaged: its weights or settings are not those of its SHA-256")
    return True


def _digest(weights: Mapping[str, Tensor], metadata: str) -> str:
    digest = hashlib.sha256(metadata.encode())
    for name in sorted(weights):
        tensor = weights[name].contiguous()
        digest.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            header: dict[str, str] = file.metadata() or {}
            # Copies: safetensors maps the file, and tensors would change with a file that is overwritten in place.
            return {name: file.get_tensor(name).clone() for name in file.keys()}, header  # noqa: SIM118 - no dict
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{path} is not an export, or a damaged one: {error}") from error


def _check_replaceable(path: Path) -> None:
    """Refuse to replace any file except an earlier export."""
    sibling = path.with_suffix(".ckpt")
    if os.path.lexists(sibling):  # both would have the same manifest
        raise ValueError(f"an export needs another name than the checkpoint {sibling} next to it, got {str(path)!r}")
    if not os.path.lexists(path):
        return
    try:
        if path.is_symlink() or not path.is_file():
            raise ValueError("it is a link, or not a file")
        with safe_open(path, framework="pt") as file:
            known = ABOUT in (file.metadata() or {})
    except (SafetensorError, ValueError, OSError):
        known = False
    if not known:
        raise ValueError(f"{path} exists and is not an export of diffusion_lab: choose another --output")
