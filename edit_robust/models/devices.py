"""Types of numbers and devices by name."""

from __future__ import annotations

import torch

from edit_robust.core import UserError, nearest

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def resolve_device(device: str) -> torch.device:
    """auto: the first GPU when there is one. Raises UserError for a device that is absent."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as e:
        raise UserError(f"device={device} is not a device; {nearest(device, ['auto', 'cpu', 'cuda', 'cuda:0'])}") from e
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device={device} is not there: this machine has {torch.cuda.device_count()} CUDA devices")
    return chosen
