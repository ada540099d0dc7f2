"""Exponential moving averages of weights, and the layouts in which programs save them."""

from __future__ import annotations

from diffusion_lab.ema.averages import EMA

__all__ = ["EMA"]
