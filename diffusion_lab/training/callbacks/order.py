"""Order of the callbacks of a run: Lightning calls each hook in the order of the list."""

from __future__ import annotations

from collections.abc import Iterable

from lightning.pytorch import Callback

from diffusion_lab.training.callbacks.checkpoints import Checkpoints
from diffusion_lab.training.callbacks.ema import EMACallback
from diffusion_lab.training.callbacks.evaluation import Evaluation
from diffusion_lab.training.callbacks.graceful_stop import GracefulStop
from diffusion_lab.training.callbacks.progress import TrainingProgress
from diffusion_lab.training.callbacks.resume_overrides import ResumeOverrides
from diffusion_lab.training.callbacks.rng_state import RNGState
from diffusion_lab.training.callbacks.run_folder import RunFolderGuard
from diffusion_lab.training.callbacks.sample_images import SampleImages
from diffusion_lab.training.callbacks.training_limits import TrainingLimits
from diffusion_lab.training.callbacks.training_monitor import TrainingMonitor
from diffusion_lab.training.foreign_state import ForeignStateCallback
from diffusion_lab.training.restore_errors import RestoreErrors

ORDER: tuple[type[Callback], ...] = (
    RunFolderGuard,  # re-creates folders before others write to them
    RNGState,  # restores the random state before others draw
    EMACallback,  # updates the average before others use it
    ResumeOverrides,  # sets the learning rate before others log it
    ForeignStateCallback,
    SampleImages,
    Evaluation,  # its metrics are known to all that follow
    Callback,  # those of training.callbacks
    TrainingMonitor,  # checks the gradients that custom callbacks may have changed
    TrainingProgress,  # shows what the others have logged
    RestoreErrors,  # checks what the others have restored
    # Lightning calls these last, and with EarlyStopping after all others at the end of an epoch.
    Checkpoints,
    TrainingLimits,  # saves the state that all others have updated
    GracefulStop,
)
"""Classes in the order of their hooks; ``Callback`` stands for classes that are not listed."""


def in_order(callbacks: Iterable[Callback]) -> list[Callback]:
    """Return callbacks in the declared order; custom ones keep their own."""
    return sorted(callbacks, key=lambda each: ORDER.index(type(each) if type(each) in ORDER else Callback))
