"""Colour data set included in the project: 1,911 emoji of 32×32 pixels in ten named groups.

Graphics: Twemoji, © Twitter, Inc. and other contributors, CC BY 4.0; see EMOJI_LICENSE.md next to this file.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from diffusion_lab.data.pixels import background_colour, convert_arrays
from diffusion_lab.data.source import ArraySource

ARCHIVE = Path(__file__).with_name("emoji.npz")
"""images uint8 (N, 32, 32, 4) with straight alpha · labels uint8 (N,) · class_names (10,) · names (N,)."""


def emoji(image_size: int = 32, channels: int = 3, background: str = "white") -> ArraySource:
    """Return all emoji, composited onto ``background`` unless 4 channels keep the alpha, resized from 32×32."""
    with np.load(ARCHIVE, allow_pickle=False) as archive:
        images = convert_arrays(archive["images"], image_size, channels, background_colour(background))
        return ArraySource(images, archive["labels"].astype(np.int64), archive["class_names"].tolist())
