from __future__ import annotations

import diffusion_lab  # noqa: F401  # before Lightning, which imports torchvision
