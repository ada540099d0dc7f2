"""Sums that round as another processor might: `pytest -p tests.other_rounding` finds tests that rest on rounding.

Convolutions, matrix products and normalisations of float32 give results that differ in their last bits from this
machine's, always in the same way for the same input, so that what must be bitwise repeatable still is. Tests that
compare with a reference to the last bits, or that look into the functions replaced here, are expected to notice;
a test of training or sampling that does must be fixed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional

REPLACED = ("conv2d", "linear", "group_norm", "layer_norm", "scaled_dot_product_attention", "silu")
LAST_BITS = 2.0**-22


def rounding_differently(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``function`` with results moved by up to two units in the last place, as a function of the result."""

    def replaced(*given: Any, **named: Any) -> Any:
        result = function(*given, **named)
        if result.dtype != torch.float32:
            return result
        with torch.no_grad():
            factor = 1 + LAST_BITS * torch.sin(1e4 * result.detach())
        return result * factor

    return replaced


def pytest_configure(config: pytest.Config) -> None:
    for name in REPLACED:
        setattr(functional, name, rounding_differently(getattr(functional, name)))
