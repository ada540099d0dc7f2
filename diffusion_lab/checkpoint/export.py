"""One set of weights and what explains it, as safetensors: to publish, or to read without this project."""

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

from diffusion_lab.atomic_files import atomic_write
from diffusion_lab.checkpoint.damage import damaged
from diffusion_lab.checkpoint.files import HashingWriter, Manifest, step_of, verify
from diffusion_lab.redaction import redacted, without_folders
from diffusion_lab.run_files import CONFIG
from diffusion_lab.safe_files import parse_json

EXPORT_SUFFIX = ".safetensors"
ABOUT = "diffusion_lab"
"""Key of the file's metadata that holds, as JSON, all but the weights."""

PRIVATE_SECTIONS = ("output", "logger")
"""Sections of the settings that tell of folders and accounts, and nothing of the model."""


DIGEST = "diffusion_lab_sha256"
"""Key of the SHA-256 over weights and ``ABOUT``: the format itself has no checksum."""


def write_export(path: Path, weights: Mapping[str, Tensor], about: dict[str, Any]) -> None:
    """Write weights by the denoiser's own names, all or nothing, with a SHA-256 of them.

    Args:
        path: The file, ending in ``.safetensors``. An earlier export there is replaced.
        weights: By name.
        about: Plain containers that JSON can hold.

    Raises:
        ValueError: It has another ending, or something else is at its place or at that of its manifest.
    """
    if path.suffix != EXPORT_SUFFIX:
        raise ValueError(f"the name of an export must end in {EXPORT_SUFFIX}, got {str(path)!r}")
    _refuse_to_replace_others(path)
    tensors = {name: tensor.contiguous() for name, tensor in weights.items()}
    told = json.dumps(about)
    path.parent.mkdir(parents=True, exist_ok=True)
    Manifest.place(path).unlink(missing_ok=True)
    with atomic_write(path) as partial, partial.open("wb") as file:
        writer = HashingWriter(file)
        writer.write(save(tensors, metadata={ABOUT: told, DIGEST: _digest(tensors, told)}))
    Manifest(step_of(path), writer.size, writer.sha256, about.get("config_hash")).write(path)


def about_for_others(about: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a checkpoint says of itself as it may leave the machine.

    Left out are secrets, the command line, the system, where things lay and who was told of the run; of paths in other
    settings the last part stays.
    """
    config = {key: value for key, value in dict(about["config"]).items() if key not in PRIVATE_SECTIONS}
    environment = about.get("environment")
    known = environment if isinstance(environment, Mapping) else {}
    return {
        **{key: value for key, value in about.items() if key != "wandb_id"},
        "config": without_folders(redacted(config)),
        "environment": {key: known[key] for key in ("python", "packages", "git_commit") if key in known},
    }


def name_for_others(file: Path) -> str:
    """Return the name of a checkpoint as generated images carry it: its run and file, and no folder above the run.

    The images are passed on, and the path would name the user or the machine. Which checkpoint it is, its SHA-256 says.
    """
    file = file.resolve()
    run = file.parent.parent
    is_run = (run / CONFIG).is_file() and str(run) != os.path.expanduser("~")
    return f"{run.name}/{file.name}" if is_run else file.name


def read_export(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the weights of an export and what explains them, verified by its manifest, else by its own SHA-256.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged, or not one of ours.
    """
    if not path.is_file():
        raise FileNotFoundError(f"the checkpoint {path} does not exist")
    listed = verify(path) is not None
    weights, metadata = _read(path)
    if not listed:
        _matches_its_digest(path, weights, metadata)
    about = parse_json(metadata.get(ABOUT, "null"), f"the explanation in {path}")
    if not isinstance(about, dict):
        raise ValueError(
            f"{path} was not exported from a checkpoint of diffusion_lab: it does not tell the architecture"
        )
    return weights, about


def verify_export(path: Path) -> bool:
    """Verify a safetensors file by the SHA-256 inside it; returns whether it has one.

    Raises:
        DamagedCheckpointError: It holds other weights or another explanation than were written.
        ValueError: It is no safetensors file, or its size is not that which its header tells.
    """
    return _matches_its_digest(path, *_read(path))


def _matches_its_digest(path: Path, weights: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bool:
    if DIGEST not in metadata:
        return False
    if metadata[DIGEST] != _digest(weights, metadata.get(ABOUT, "")):
        raise damaged(path, "is damaged: its weights or settings are not those of its SHA-256")
    return True


def _digest(weights: Mapping[str, Tensor], about: str) -> str:
    digest = hashlib.sha256(about.encode())
    for name in sorted(weights):
        tensor = weights[name].contiguous()
        digest.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118 - it is no dict
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{path} is no export, or a damaged one: {error}") from error


def _refuse_to_replace_others(path: Path) -> None:
    """An export replaces an earlier one, and no other file."""
    sibling = path.with_suffix(".ckpt")
    if os.path.lexists(sibling):  # both would have the same manifest
        raise ValueError(f"an export needs another name than the checkpoint {sibling} beside it, got {str(path)!r}")
    if not os.path.lexists(path):
        return
    try:
        if path.is_symlink() or not path.is_file():
            raise ValueError("it is a link, or no file")
        with safe_open(path, framework="pt") as file:
            known = ABOUT in (file.metadata() or {})
    except (SafetensorError, ValueError, OSError):
        known = False
    if not known:
        raise ValueError(f"{path} is there and is no export of diffusion_lab: choose another --output")
