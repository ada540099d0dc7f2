"""What happens beside the training step: averaging, checkpoints, pictures, evaluation, progress, watching, stopping."""

from __future__ import annotations

from diffusion_lab.training.callbacks.averaging import Averaging
from diffusion_lab.training.callbacks.checkpoints import Checkpoints
from diffusion_lab.training.callbacks.evaluation import Evaluation
from diffusion_lab.training.callbacks.folder import FolderRestoration
from diffusion_lab.training.callbacks.pictures import Pictures
from diffusion_lab.training.callbacks.progress import TrainingProgress
from diffusion_lab.training.callbacks.randomness import Randomness
from diffusion_lab.training.callbacks.resumption import Resumption
from diffusion_lab.training.callbacks.stopping import Stopping
from diffusion_lab.training.callbacks.watch import Watch

__all__ = [
    "Averaging",
    "Checkpoints",
    "Evaluation",
    "FolderRestoration",
    "Pictures",
    "Randomness",
    "Resumption",
    "Stopping",
    "TrainingProgress",
    "Watch",
]
