"""Seeds made from other numbers, so that every random draw has a name of its own."""

from __future__ import annotations

import hashlib


def derive_seed(*parts: int | str) -> int:
    """A seed in [0, 2^63) that depends on every part and its place, the same on every machine and in every version.

    Neighbouring parts give unrelated seeds, which adding or multiplying the parts would not.
    """
    name = "/".join(str(part) for part in parts).encode()
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big") >> 1
