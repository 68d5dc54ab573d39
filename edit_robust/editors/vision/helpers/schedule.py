"""PAINT's learning rates (mlfoundations/patching): linear warm-up, then a cosine to zero."""

from __future__ import annotations

import math


def warm_cosine(lr: float, step: int, warmup: int, steps: int) -> float:
    """The rate of a step (from 1) of `steps`. Fewer steps than `warmup` never leave the rising line."""
    if step <= warmup:
        return lr * step / warmup
    return lr * 0.5 * (1 + math.cos(math.pi * (step - 1 - warmup) / max(steps - warmup, 1)))
