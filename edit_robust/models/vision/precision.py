"""TensorFloat-32: on a GPU since Ampere, products of float32 numbers may be computed with 10 bits behind the point.

It is quicker, and answers can change. Here it is off unless `model.tf32=true`, in convolutions, too, where torch has it
on; a run with it on says how many answers differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from jaxtyping import Float
from torch import Tensor

AMPERE = (8, 0)  # the first compute capability that has it


def set_tf32(on: bool) -> None:
    """Let float32 matrix products and convolutions of this process use TensorFloat-32, or not."""
    torch.backends.cuda.matmul.allow_tf32 = on
    torch.backends.cudnn.allow_tf32 = on


@contextmanager
def tf32(on: bool) -> Iterator[None]:
    """Inside the block TensorFloat-32 is on or off; afterwards as before."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    set_tf32(on)
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def has_tf32(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the option changes anything: on a GPU since Ampere, for float32 numbers."""
    if device.type != "cuda" or dtype != torch.float32:
        return False
    return torch.cuda.get_device_capability(device) >= AMPERE


def lowered() -> AbstractContextManager[None]:
    """Inside the block float32 products have the lower precision."""
    return tf32(True)


def flips(answer: Callable[[], Float[Tensor, "n c"]]) -> int:
    """How many rows of logits have another largest entry in the lower precision than in float32."""
    with tf32(False):
        exact = answer().argmax(-1)
    with lowered():
        quick = answer().argmax(-1)
    return int((exact != quick).sum())
