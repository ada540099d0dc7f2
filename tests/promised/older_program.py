"""Model section that users of the older program write for its checkpoints."""

from __future__ import annotations

from typing import Any

MODEL: dict[str, Any] = {
    "architecture": {
        "image_size": 8,
        "in_channels": 1,
        "model_channels": 8,
        "channel_multipliers": [1],
        "use_attention": [False],
        "num_res_blocks": 1,
    },
    "diffusion": {"num_timesteps": 20, "beta_schedule": "cosine", "beta_start": 0.0001, "beta_end": 0.02},
}
