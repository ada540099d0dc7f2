"""Training with Lightning: the module, optimizers, learning-rate schedules, callbacks and the run folder."""

from __future__ import annotations

from diffusion_lab.runtime import torchvision_import

torchvision_import.install()  # Lightning imports torchvision
