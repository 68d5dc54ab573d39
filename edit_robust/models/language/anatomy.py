"""Find the parts of a causal language model by what they do, never by what the model is called.

The decoder stack is the longest list of like modules; one tiny forward pass then tells the order in which things
run: the last projection inside a block is the MLP's down-projection, and what runs after the stack is the final norm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edit_robust.core.editable import Layer
from edit_robust.core.errors import UserError
from edit_robust.core.projections import is_projection, kind_of


@dataclass(frozen=True)
class Anatomy:
    """Where things are in a decoder.

    owner:  the module that embeds tokens and runs the stack (called with input_ids).
    blocks: the decoder blocks in order.   after: modules applied to the last block's output, in order (final norm).
    head:   hidden states -> logits.        layers: the down-projection of every block.
    last_mlp: the module around the last block's down-projection when it holds an MLP and nothing else, else None.
    additive: a block's output is (something that the down-projection does not touch) + its output.
    """

    owner: nn.Module
    blocks: tuple[nn.Module, ...]
    after: tuple[nn.Module, ...]
    head: nn.Module
    layers: tuple[Layer, ...]
    last_mlp: nn.Module | None
    additive: bool


def hidden_of(output: Any) -> Tensor:
    """A block's hidden states, whether it returns a tensor or a tuple."""
    return output if isinstance(output, Tensor) else output[0]


def with_hidden(output: Any, hidden: Tensor) -> Any:
    """The same kind of output, with other hidden states."""
    return hidden if isinstance(output, Tensor) else (hidden, *output[1:])


def dissect(net: Any, hidden_size: int) -> Anatomy:
    """Find the anatomy. Raises UserError when the network is not a decoder of the usual kind."""
    stacks = [
        (name, m)
        for name, m in net.named_modules()
        if isinstance(m, nn.ModuleList) and len(m) and len({type(b) for b in m}) == 1 and _has_projection(m[0])
    ]
    if not stacks:
        raise UserError("no stack of decoder blocks found in this model: it is not a causal language model")
    stack_name, stack = max(stacks, key=lambda s: sum(p.numel() for p in s[1].parameters()))
    owner = net.get_submodule(stack_name.rpartition(".")[0])
    head = net.get_output_embeddings() if hasattr(net, "get_output_embeddings") else None
    if head is None:
        raise UserError("this model has no output head: a causal language model is needed")
    blocks = tuple(stack)
    names = {m: n for n, m in net.named_modules()}

    for i, block in enumerate(blocks):
        _refuse_experts(i, block)
    _refuse_two_ways(owner)
    called: list[nn.Module] = []
    hooks = []
    direct = [m for m in owner.children() if m is not stack]
    inside = [m for b in blocks for m in b.modules() if is_projection(m)]
    for m in [*direct, *blocks, *inside]:
        hooks.append(m.register_forward_hook(lambda mod, args, out: called.append(mod)))
    try:
        with torch.no_grad():
            ids = torch.zeros(1, 2, dtype=torch.long, device=next(owner.parameters()).device)
            owner(input_ids=ids, use_cache=False)
    finally:
        for h in hooks:
            h.remove()

    if called.count(blocks[-1]) != 1:
        raise UserError("this model runs a block more than once, or not at all: it cannot be edited by layer")
    end = called.index(blocks[-1])
    after = tuple(m for m in called[end + 1 :] if m in direct)
    layers = []
    for i, block in enumerate(blocks):
        mine = set(block.modules())
        projections = [m for m in called if m in mine and is_projection(m)]
        if not projections:
            raise UserError(f"block {i} has no projection that could be edited")
        down = projections[-1]
        layer = Layer(names[down], i, kind_of(down), down)
        if layer.shape[0] != hidden_size:
            raise UserError(
                f"the last projection of block {i}, {layer.name}, gives {layer.shape[0]} values and not the hidden "
                f"size {hidden_size}: this architecture has no single MLP down-projection to edit"
            )
        layers.append(layer)
    mlp = _mlp_around(net, blocks[-1], layers[-1], called)
    return Anatomy(owner, blocks, after, head, tuple(layers), mlp, _additive(owner, blocks, layers))


def _mlp_around(net: nn.Module, block: nn.Module, layer: Layer, called: Sequence[nn.Module]) -> nn.Module | None:
    """The module that holds the block's MLP and not its attention, which runs before the MLP does."""
    parent = net.get_submodule(layer.name.rpartition(".")[0])
    order = [m for m in called if m in set(block.modules()) and is_projection(m)]
    held = [m in set(parent.modules()) for m in order]
    return parent if parent is not block and not held[0] and sum(held) >= 2 else None


def _has_projection(block: nn.Module) -> bool:
    return sum(is_projection(m) for m in block.modules()) >= 2


def _refuse_experts(index: int, block: nn.Module) -> None:
    """A mixture of experts has a down-projection an expert: a stack of matrices in one tensor, or a list of MLPs."""
    for m in block.modules():
        stacked = any(p.dim() == 3 for p in m.parameters(recurse=False)) and not isinstance(m, nn.Conv1d)
        listed = isinstance(m, nn.ModuleList) and len(m) > 1 and all(_has_projection(e) for e in m)
        if stacked or listed:
            raise UserError(f"block {index} is a mixture of experts: it has no single MLP down-projection to edit")


def _refuse_two_ways(owner: nn.Module) -> None:
    """Does what stands first change with what comes later? Then nothing here can be read from left to right."""
    device = next(owner.parameters()).device
    try:
        with torch.no_grad():
            a, b = (
                hidden_of(owner(input_ids=torch.tensor([ids], device=device), use_cache=False)[0])[..., 0, :].float()
                for ids in ([0, 0], [0, 1])
            )
    except TypeError as e:
        raise UserError("this model has no decoder that reads token ids: it is not a causal language model") from e
    if not torch.allclose(a, b, rtol=1e-2, atol=1e-3, equal_nan=True):
        raise UserError("this model reads from both sides: it is not a causal language model")


def _additive(owner: nn.Module, blocks: tuple[nn.Module, ...], layers: list[Layer]) -> bool:
    """Shift each down-projection's output by a known amount and see whether the block's output shifts as much.

    The shift differs between coordinates: a layer norm would hide one that does not.
    """
    ids = torch.zeros(1, 2, dtype=torch.long, device=next(owner.parameters()).device)
    ramp = torch.linspace(-1, 1, layers[0].shape[0])

    def outputs(scale: float) -> list[Tensor]:
        seen: list[Tensor] = []
        hooks = []
        for block, layer in zip(blocks, layers, strict=True):
            hooks.append(layer.module.register_forward_hook(lambda m, a, out: out + scale * ramp.to(out)))
            # each block sees the unshifted stream, so that every block is judged alone
            hooks.append(block.register_forward_hook(lambda m, a, out: _judge(out, seen, scale * ramp)))
        try:
            with torch.no_grad():
                owner(input_ids=ids, use_cache=False)
        finally:
            for h in hooks:
                h.remove()
        return seen

    plain, shifted = outputs(0.0), outputs(1.0)
    return all(_shifted(a, b, ramp.to(a.device)) for a, b in zip(plain, shifted, strict=True))


def _shifted(a: Tensor, b: Tensor, ramp: Tensor) -> bool:
    rounding = 8 * torch.finfo(a.dtype).eps * a.float().abs()
    return bool(((b.float() - a.float() - ramp).abs() <= 0.05 + rounding).all())


def _judge(output: Any, seen: list[Tensor], shift: Tensor) -> Any:
    hidden = hidden_of(output)
    seen.append(hidden.detach().clone())
    return with_hidden(output, hidden - shift.to(hidden))
