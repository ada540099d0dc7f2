"""Lightning callbacks: EMA, checkpoints, sample images, evaluation, progress, monitoring, graceful stop, resuming."""

from __future__ import annotations

from diffusion_lab.training.callbacks.checkpoints import Checkpoints
from diffusion_lab.training.callbacks.ema import EMACallback
from diffusion_lab.training.callbacks.evaluation import Evaluation
from diffusion_lab.training.callbacks.graceful_stop import GracefulStop
from diffusion_lab.training.callbacks.progress import TrainingProgress
from diffusion_lab.training.callbacks.resume_overrides import ResumeOverrides
from diffusion_lab.training.callbacks.rng_state import RNGState
from diffusion_lab.training.callbacks.run_folder import RunFolderGuard
from diffusion_lab.training.callbacks.sample_images import SampleImages
from diffusion_lab.training.callbacks.sample_metric import SampleMetric
from diffusion_lab.training.callbacks.training_limits import TrainingLimits
from diffusion_lab.training.callbacks.training_monitor import TrainingMonitor

__all__ = [
    "Checkpoints",
    "EMACallback",
    "Evaluation",
    "GracefulStop",
    "RNGState",
    "ResumeOverrides",
    "RunFolderGuard",
    "SampleImages",
    "SampleMetric",
    "TrainingLimits",
    "TrainingMonitor",
    "TrainingProgress",
]
