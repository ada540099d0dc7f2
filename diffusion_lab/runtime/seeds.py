"""Seeds derived from other numbers, so that every random draw has its own stream."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import numpy.typing as npt


def derive_seed(*parts: int | str) -> int:
    """Return a seed in [0, 2^63) that depends on all parts and their order, the same on all machines and versions.

    Adjacent parts give unrelated seeds, which adding or multiplying the parts would not.
    """
    return int.from_bytes(hashlib.blake2b(_name(parts), digest_size=8).digest(), "big") >> 1


def derive_uniform(shape: tuple[int, ...], *parts: int | str) -> npt.NDArray[np.float32]:
    """Return numbers uniform in ±1 that depend on all parts, as a seed does.

    For small arrays, where this is faster than seeding a random number generator.
    """
    drawn = hashlib.shake_128(_name(parts)).digest(4 * math.prod(shape))
    spread: npt.NDArray[np.float32] = np.multiply(np.frombuffer(drawn, "<i4"), np.float32(2**-31), dtype=np.float32)
    return spread.reshape(shape)


def _name(parts: tuple[int | str, ...]) -> bytes:
    return "/".join(str(part) for part in parts).encode()
