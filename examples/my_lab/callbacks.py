from typing import Any

from lightning.pytorch import Callback, Trainer


class Contrast(Callback):
    """Logs the standard deviation of the pixels of 16 samples after each validation."""

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        images = pl_module.sampler.sample(num_samples=16, seed=0)
        pl_module.log("contrast", images.std().item())
