"""GPT-2's activation on a processor: where the MLP is wide for its network, as in the built-in one, PyTorch's own takes
a quarter of all time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.activations import GELUTanh, NewGELUActivation

#: With more threads PyTorch's own is as fast.
_THREADS = 4
#: An MLP's width inside. A narrower network gains less than the second that it takes to load compiled loops.
WIDE = 512


class QuickGelu(nn.Module):
    """The module's own numbers up to rounding: by one loop on a processor in float32, by itself elsewhere."""

    def __init__(self, own: nn.Module) -> None:
        super().__init__()
        self.own = own

    def forward(self, x: Tensor) -> Tensor:
        """Of any shape."""
        if x.device.type != "cpu" or x.dtype != torch.float32 or torch.get_num_threads() > _THREADS:
            found: Tensor = self.own(x)
        elif torch.is_grad_enabled() and x.requires_grad:
            found = _Gelu.apply(x)
        else:
            found = torch.ops.edit_robust.tanh_gelu(x)
        return found


def quicken(net: nn.Module) -> None:
    """Put the quick form in place of every activation that it stands for."""
    found = [(parent, name, m) for parent in net.modules() for name, m in parent.named_children() if _stands_for(m)]
    if not found:
        return
    import edit_robust.models.language.gelu_loops  # noqa: F401  the operations

    for parent, name, own in found:
        setattr(parent, name, QuickGelu(own))


def _stands_for(module: nn.Module) -> bool:
    own = isinstance(module, nn.GELU) and module.approximate == "tanh"
    return own or isinstance(module, GELUTanh | NewGELUActivation)


class _Gelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        found: Tensor = torch.ops.edit_robust.tanh_gelu(x)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        found: Tensor = torch.ops.edit_robust.tanh_gelu_backward(gradient, x)
        return found
