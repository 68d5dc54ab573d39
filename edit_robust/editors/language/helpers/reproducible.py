"""Training that gives the same bits every time: edits that are not kept are made again when a run goes on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


@contextmanager
def reproducible(device: torch.device) -> Iterator[None]:
    """Inside the block gradients through attention are the same at every run, also on a GPU.

    The fused attention kernels of CUDA add up gradients in whatever order their threads arrive; the plain one does not.
    """
    if device.type != "cuda":
        yield
        return
    with sdpa_kernel(SDPBackend.MATH):
        yield
