"""What happens beside the training step: averaging, checkpoints, pictures, progress."""

from __future__ import annotations

from diffusion_lab.training.callbacks.averaging import Averaging
from diffusion_lab.training.callbacks.checkpoints import Checkpoints
from diffusion_lab.training.callbacks.pictures import Pictures
from diffusion_lab.training.callbacks.progress import TrainingProgress
from diffusion_lab.training.callbacks.resumption import Resumption

__all__ = ["Averaging", "Checkpoints", "Pictures", "Resumption", "TrainingProgress"]
