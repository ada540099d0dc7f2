"""Benchmarks of speed and quality; `python -m benchmarks` runs those of speed."""

from __future__ import annotations

from diffusion_lab.runtime import torchvision_import

torchvision_import.install()  # the peers import torchvision
