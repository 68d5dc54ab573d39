"""Attention behind a text that was read before, on a processor: where an edit's value is optimised. Imported when it is
wanted, as transformers takes half a second to load what it is registered with.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

import edit_robust.models.language.attention_loops  # noqa: F401  the operations

_NAME = "edit-robust-behind"
#: With more places PyTorch's own is as fast, and with several threads.
_PLACES = 8
#: What else a family may give to its attention, and how it is given where it says nothing.
_NOTHING = {"softcap": None, "s_aux": None, "position_bias": None, "head_mask": None, "output_attentions": False}


@contextmanager
def quick_attention(net: nn.Module) -> Iterator[None]:
    """Inside the block, the network's attention looks whether the quick form can stand for PyTorch's."""
    config: Any = getattr(net, "config", None)
    if getattr(config, "_attn_implementation", None) != "sdpa" or torch.get_num_threads() > 1:
        yield
        return
    config._attn_implementation = _NAME
    try:
        yield
    finally:
        config._attn_implementation = "sdpa"


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """As transformers calls it: [b, h, t, d] each; the output [b, t, h, d]."""
    if not _fits(query, key, value, attention_mask) or not _plain(options):
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    (ahead_k, k), (ahead_v, v) = key.parts, value.parts  # type: ignore[attr-defined]
    assert attention_mask is not None
    mask = torch.where(attention_mask, 0.0, -torch.inf) if attention_mask.dtype == torch.bool else attention_mask
    scale = query.shape[-1] ** -0.5 if options.get("scaling") is None else options["scaling"]
    found: Tensor = _Behind.apply(query, k, v, ahead_k.contiguous(), ahead_v.contiguous(), mask, scale)
    return found, None


def _fits(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> bool:
    if not hasattr(key, "parts") or not hasattr(value, "parts") or query.shape[-1] != value.shape[-1]:
        return False
    places = (query.shape[2], key.shape[2])
    if mask is None or mask.dtype not in (torch.bool, torch.float32) or mask.shape[1:] != (1, *places):
        return False
    return query.device.type == "cpu" and query.dtype == torch.float32 and query.shape[2] <= _PLACES


def _plain(options: dict[str, Any]) -> bool:
    return not options.get("dropout") and all(options.get(k, nothing) == nothing for k, nothing in _NOTHING.items())


class _Behind(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, ahead_k: Tensor, ahead_v: Tensor, mask: Tensor, scale: float
    ) -> Tensor:
        found, shares = torch.ops.edit_robust.attention_behind(q, k, v, ahead_k, ahead_v, mask, scale)
        ctx.save_for_backward(q, k, v, ahead_k, ahead_v, shares)
        ctx.scale = scale
        return found  # type: ignore[no-any-return]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        found = torch.ops.edit_robust.attention_behind_backward(gradient, *ctx.saved_tensors, ctx.scale)
        return *found, None, None, None, None


AttentionInterface.register(_NAME, _attention)
