"""Weights that a change can be added to: plain floating-point tensors that lie whole on a device.

Anything else is refused by name before a model is looked at any further. Packages that pack or shard weights are
recognised by the names of their classes; none of them is imported.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edit_robust.core.errors import UserError

EDITABLE_TYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
#: Modules with packed weights: of bitsandbytes, GPTQ, AWQ, HQQ, EETQ, compressed-tensors, VPTQ, and those in FP8.
PACKED_MODULES = (
    *("Linear8bitLt", "Linear4bit", "LinearNF4", "LinearFP4", "HQQLinear", "EetqLinear", "CompressedLinear"),
    *("VQuantLinear", "FP8Linear", "FbgemmFp8Linear", "BitLinear", "AutoBitLinear"),
)
#: What modules hold in place of a parameter `weight` when their weights are packed.
PACKED_NAMES = ("qweight", "weight_packed", "packed_weight", "_packed_params")
SHARDED = ("DTensor", "FlatParameter", "ShardedTensor")


def check_weights(net: nn.Module) -> None:
    """UserError, naming the module, for quantised, sharded or offloaded weights, which no change can be added to."""
    for name, module in net.named_modules():
        if _packed(module):
            raise UserError(
                f"{name or 'this network'} is quantised ({type(module).__name__}): no change can be added to packed "
                "weights; load the model without quantisation, for example with model.dtype=bfloat16"
            )
        for parameter, p in module.named_parameters(recurse=False):
            if reason := _unusual(p):
                raise UserError(f"{f'{name}.{parameter}' if name else parameter} {reason}")


def _packed(module: nn.Module) -> bool:
    """Whether a module keeps its weights packed."""
    kind = type(module)
    if kind.__name__ in PACKED_MODULES or "QuantLinear" in kind.__name__ or kind.__name__.startswith("WQLinear"):
        return True
    # of torch's own quantised modules, `weight` is a method that unpacks
    if kind.__module__.startswith(("torch.ao.nn.", "torch.nn.quantized")) and callable(getattr(module, "weight", None)):
        return True
    buffers = {n for n, _ in module.named_buffers(recurse=False)}
    return any(n in buffers or n in vars(module) for n in PACKED_NAMES)


def _unusual(p: Tensor) -> str:
    """Why a parameter cannot be changed, or nothing."""
    classes = [c.__name__ for c in type(p).__mro__]
    if any(n in SHARDED for n in classes):
        return f"is sharded over several processes ({type(p).__name__}): load the model whole in one process to edit it"
    if "UninitializedTensorMixin" in classes:
        return "has no values yet: run the model once before it is edited"
    if p.is_meta:
        return "is offloaded (it lies on the meta device): the model needs a device with room for all of its weights"
    if p.dtype not in EDITABLE_TYPES:
        held = str(p.dtype).removeprefix("torch.")
        return f"is quantised: it holds {held}, and changes need float32, bfloat16, float16 or float64"
    if nn.Parameter not in type(p).__mro__ and type(p) is not Tensor:
        return f"is quantised or wrapped: it is stored as {type(p).__name__}, which no change can be added to"
    return ""
