"""Before a run: what it will see, how long it will take, and which learning rate and batch size to begin with."""

from __future__ import annotations

from diffusion_lab.runtime import torchvision_import

torchvision_import.install()  # Lightning imports torchvision
