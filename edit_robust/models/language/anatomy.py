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
from edit_robust.models.language.hooks import hooked


@dataclass(frozen=True)
class Anatomy:
    """Where things are in a decoder.

    owner:  the module that embeds tokens and runs the stack (called with input_ids).
    blocks: the decoder blocks in order.   after: modules applied to the last block's output, in order (final norm).
    head:   hidden states -> logits.        layers: the down-projection of every block.
    last_mlp: the module around the last block's down-projection when it holds an MLP and nothing else, else None.
    additive: a block's output is (something that the down-projection does not touch) + its output.
    hidden_size: width of the residual stream.   vocabulary: how many tokens there are.
    """

    owner: nn.Module
    blocks: tuple[nn.Module, ...]
    after: tuple[nn.Module, ...]
    head: nn.Module
    layers: tuple[Layer, ...]
    last_mlp: nn.Module | None
    additive: bool
    hidden_size: int
    vocabulary: int


def hidden_of(output: Any) -> Tensor:
    """A block's hidden states, whether it returns a tensor or a tuple."""
    return output if isinstance(output, Tensor) else output[0]


def with_hidden(output: Any, hidden: Tensor) -> Any:
    """The same kind of output, with other hidden states."""
    return hidden if isinstance(output, Tensor) else (hidden, *output[1:])


def dissect(net: Any) -> Anatomy:
    """Find the anatomy. Raises UserError when the network is not a decoder of the usual kind."""
    stack_name, stack = _stack(net)
    owner = net.get_submodule(stack_name.rpartition(".")[0])
    head, vocabulary, width = _head(net)
    config = getattr(net, "config", None)
    hidden_size = int(getattr(config, "hidden_size", 0) or getattr(config, "n_embd", 0) or width)
    blocks = tuple(stack)
    for i, block in enumerate(blocks):
        _refuse_experts(i, block)
    _refuse_two_ways(owner, vocabulary)
    direct = [m for m in owner.children() if m is not stack]
    called = _order(owner, [*direct, *blocks, *(m for b in blocks for m in b.modules() if is_projection(m))])
    if called.count(blocks[-1]) != 1:
        raise UserError("this model runs a block more than once, or not at all: it cannot be edited by layer")
    after = tuple(m for m in called[called.index(blocks[-1]) + 1 :] if m in direct)
    layers = _down_projections(net, blocks, called, hidden_size)
    mlp = _mlp_around(net, blocks[-1], layers[-1], called)
    return Anatomy(
        owner,
        blocks,
        after,
        head,
        tuple(layers),
        mlp,
        _additive(owner, blocks, layers, vocabulary),
        hidden_size,
        vocabulary,
    )


def _stack(net: nn.Module) -> tuple[str, nn.ModuleList]:
    """The longest list of like modules with projections in them, and its name."""
    stacks = [
        (name, m)
        for name, m in net.named_modules()
        if isinstance(m, nn.ModuleList) and len(m) and len({type(b) for b in m}) == 1 and _has_projection(m[0])
    ]
    if not stacks:
        raise UserError("no stack of decoder blocks found in this model: it is not a causal language model")
    return max(stacks, key=lambda s: sum(p.numel() for p in s[1].parameters()))


def _head(net: Any) -> tuple[nn.Module, int, int]:
    """The output head, how many tokens it knows, and its input width: one linear map from hidden states to logits."""
    try:
        head = net.get_output_embeddings()
    except (AttributeError, NotImplementedError):
        head = None
    if head is None:
        others = [name for name, m in net.named_children() if is_projection(m)]
        found = f" ({type(net).__name__} has {', '.join(others)} instead)" if others else ""
        raise UserError(f"this model has no output head over its vocabulary{found}: a causal language model is needed")
    name = next((n for n, m in net.named_modules() if m is head), "its output head")
    if not is_projection(head) or isinstance(head, nn.Conv2d):
        raise UserError(f"{name} ({type(head).__name__}) is an output head of another kind than one linear map")
    layer = Layer(name, 0, kind_of(head), head)
    vocabulary = int(getattr(getattr(net, "config", None), "vocab_size", 0) or layer.shape[0])
    if layer.shape[0] < vocabulary:
        raise UserError(
            f"{name} gives {layer.shape[0]} values a token and not one for each of {vocabulary} tokens: "
            "it classifies texts, and a causal language model is needed"
        )
    return head, vocabulary, layer.shape[1]


def _order(owner: nn.Module, watched: Sequence[nn.Module]) -> list[nn.Module]:
    """The watched modules in the order in which they end, in a forward pass over two tokens."""
    called: list[nn.Module] = []
    hooks = [m.register_forward_hook(lambda mod, args, out: called.append(mod)) for m in watched]
    with hooked(*hooks), torch.no_grad():
        ids = torch.zeros(1, 2, dtype=torch.long, device=next(owner.parameters()).device)
        owner(input_ids=ids, use_cache=False)
    return called


def _down_projections(
    net: nn.Module, blocks: Sequence[nn.Module], called: Sequence[nn.Module], hidden_size: int
) -> list[Layer]:
    """The last projection that runs in each block."""
    names = {m: n for n, m in net.named_modules()}
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
    return layers


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
    for name, m in block.named_modules():
        stacked = any(p.dim() == 3 for p in m.parameters(recurse=False)) and not isinstance(m, nn.Conv1d)
        listed = isinstance(m, nn.ModuleList) and len(m) > 1 and all(_has_projection(e) for e in m)
        if stacked or listed:
            raise UserError(
                f"block {index} is a mixture of experts ({name}, {type(m).__name__}): "
                "it has no single MLP down-projection to edit"
            )


def _two_tokens(vocabulary: int) -> list[int]:
    """Two tokens from the middle of the vocabulary: the first may stand for padding, with an embedding of zeros."""
    return [vocabulary // 3, vocabulary // 2]


def _refuse_two_ways(owner: nn.Module, vocabulary: int) -> None:
    """Does what stands first change with what comes later? Then nothing here can be read from left to right."""
    device = next(owner.parameters()).device
    first, second = _two_tokens(vocabulary)
    try:
        with torch.no_grad():
            a, b = (
                hidden_of(owner(input_ids=torch.tensor([ids], device=device), use_cache=False)[0])[..., 0, :].float()
                for ids in ([first, first], [first, second])
            )
    except TypeError as e:
        raise UserError("this model has no decoder that reads token ids: it is not a causal language model") from e
    if not torch.allclose(a, b, rtol=1e-2, atol=1e-3, equal_nan=True):
        raise UserError("this model reads from both sides: it is not a causal language model")


def _additive(owner: nn.Module, blocks: tuple[nn.Module, ...], layers: list[Layer], vocabulary: int) -> bool:
    """Shift each down-projection's output by a known amount and see whether the block's output shifts as much.

    The shift differs between coordinates: a layer norm would hide one that does not. It is as large as the largest
    number of the block's output, so that it stands above that number's rounding in every type.
    """
    ids = torch.tensor([_two_tokens(vocabulary)], device=next(owner.parameters()).device)
    ramp = torch.linspace(-1, 1, layers[0].shape[0])

    def outputs(sizes: Sequence[float]) -> list[Tensor]:
        seen: list[Tensor] = []
        hooks = []
        for block, layer, size in zip(blocks, layers, sizes, strict=True):
            shift = size * ramp
            hooks.append(layer.module.register_forward_hook(lambda m, a, out, shift=shift: out + shift.to(out)))
            # each block is given the unshifted stream, so that it is looked at alone
            hooks.append(block.register_forward_hook(lambda m, a, out, shift=shift: _note(out, seen, shift)))
        with hooked(*hooks), torch.no_grad():
            owner(input_ids=ids, use_cache=False)
        return seen

    plain = outputs([0.0] * len(blocks))
    sizes = [max(float(a.float().abs().max()), 1e-3) for a in plain]
    shifted = outputs(sizes)
    return all(_shifted(a, b, s, s * ramp.to(a.device)) for a, b, s in zip(plain, shifted, sizes, strict=True))


def _shifted(a: Tensor, b: Tensor, size: float, shift: Tensor) -> bool:
    """Whether b is a + shift, up to rounding of sums of numbers of at most that size."""
    rounding = max(1e-3, 16 * torch.finfo(a.dtype).eps) * size
    return bool(((b.float() - a.float() - shift).abs() <= rounding).all())


def _note(output: Any, seen: list[Tensor], shift: Tensor) -> Any:
    """Note a block's output, and give it without the shift."""
    hidden = hidden_of(output)
    seen.append(hidden.detach().clone())
    return with_hidden(output, hidden - shift.to(hidden))
