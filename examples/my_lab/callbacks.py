from typing import Any

from lightning.pytorch import Callback, Trainer


class Contrast(Callback):
    """Logs the standard deviation of the pixels of samples after each validation."""

    def __init__(self, num_samples: int = 16):
        self.num_samples = num_samples

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        images = pl_module.sampler.sample(self.num_samples, seed=0)
        pl_module.log("contrast", images.std().item())
