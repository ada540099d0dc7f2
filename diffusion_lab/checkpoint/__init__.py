"""Checkpoints: written atomically, found, verified, and read without running code.

From the command line: ``python -m diffusion_lab.checkpoint inspect|verify|export PATH``.
"""

from __future__ import annotations

from diffusion_lab.checkpoint.content import Checkpoint
from diffusion_lab.checkpoint.damage import DamagedCheckpointError
from diffusion_lab.checkpoint.files import Manifest, file_hash, find_checkpoint, verify
from diffusion_lab.checkpoint.metadata import FORMAT
from diffusion_lab.checkpoint.reading import load_denoiser, read_checkpoint
from diffusion_lab.checkpoint.tensors import load_tensors
from diffusion_lab.checkpoint.weights import Weights, load_weights

__all__ = [
    "FORMAT",
    "Checkpoint",
    "DamagedCheckpointError",
    "Manifest",
    "Weights",
    "file_hash",
    "find_checkpoint",
    "load_denoiser",
    "load_tensors",
    "load_weights",
    "read_checkpoint",
    "verify",
]
