"""Training that gives the same bits every time: edits that are not kept are made again when a run goes on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


@contextmanager
def reproducible(device: torch.device) -> Iterator[None]:
    """Inside the block gradients are the same at every run on the same device with the same number of threads.

    On a CPU, gradients of what was read several times are added up in order. On a GPU, attention is computed by plain
    products of matrices: the fused kernels add up gradients in whatever order their threads arrive.
    """
    if device.type == "cuda":
        with sdpa_kernel(SDPBackend.MATH):
            yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    memory = torch.utils.deterministic
    filled = memory.fill_uninitialized_memory  # type: ignore[attr-defined]
    memory.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        memory.fill_uninitialized_memory = filled  # type: ignore[attr-defined]
