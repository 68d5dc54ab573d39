"""Where a forward pass must start again when only some parameters change: as late as possible.

What lies below is computed once and kept. The answer follows from the names of the parameters that may change:

- of the lowest changed block only the down-projection: its inputs, and what the block adds beside it, are kept;
- of the lowest changed block anything else: the residual stream that enters the block is kept;
- the final norm or the head alone: the stream after the last block is kept;
- anything before the blocks (embeddings, also as the weights of a tied head): nothing can be kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from edit_robust.core import Layer
from edit_robust.models.language.decoder import Decoder


class Entry(Protocol):
    """A place to start from. start: the first block that runs again.  widths: of the tensors that are kept.

    name: what to call it in the run's status.
    """

    @property
    def name(self) -> str: ...

    @property
    def start(self) -> int: ...

    @property
    def widths(self) -> tuple[int, ...]: ...

    @property
    def device(self) -> torch.device: ...

    def capture(self, ids: Int[Tensor, "b t"], **kwargs: Any) -> tuple[Float[Tensor, "b t _"], ...]:
        """What has to be kept of some sequences; `kwargs` go to the network (keys and values of a prefix)."""
        ...

    def resume(self, kept: Sequence[Float[Tensor, "b t _"]]) -> Float[Tensor, "b t d"]:
        """The stream that enters block `start` at the present weights; differentiable in them."""
        ...


class AtProjection:
    """Start at a block's down-projection: its inputs are kept, and the block's output without what it adds."""

    def __init__(self, model: Decoder, layer: Layer) -> None:
        self.model, self.layer = model, layer
        self.start, self.device, self.name = layer.index + 1, layer.weight.device, f"projection of block {layer.index}"
        self.widths = (layer.shape[1], layer.shape[0])

    def capture(self, ids: Int[Tensor, "b t"], **kwargs: Any) -> tuple[Float[Tensor, "b t _"], ...]:
        return self.model.around_projection(self.layer, ids, **kwargs)

    def resume(self, kept: Sequence[Float[Tensor, "b t _"]]) -> Float[Tensor, "b t d"]:
        inputs, rest = kept
        return rest + self.layer.module(inputs)


class AtBlock:
    """Start at a block's beginning, or, with index `n_layers`, behind the last one: the stream there is kept."""

    def __init__(self, model: Decoder, index: int) -> None:
        self.model, self.start = model, index
        self.widths, self.name = (model.hidden_size,), f"block {index}" if index < model.n_layers else "last norm"
        self.device = model.anatomy.layers[min(index, model.n_layers - 1)].weight.device

    def capture(self, ids: Int[Tensor, "b t"], **kwargs: Any) -> tuple[Float[Tensor, "b t _"], ...]:
        return (self.model.before_block(self.start, ids, **kwargs),)

    def resume(self, kept: Sequence[Float[Tensor, "b t _"]]) -> Float[Tensor, "b t d"]:
        return kept[0].clone()  # some families add to the stream in place


def entry_for(model: Decoder, changes: Sequence[str]) -> Entry | None:
    """The latest start that the named parameters and the network allow, or None where nothing can be kept.

    Parameters count by identity: a head that is tied to the embeddings changes with them.
    """
    uses = model.first_uses()
    changed = {id(model.param(name)) for name in changes}
    first = min((uses[p] for p in changed), default=-1)
    if first < 0 or not model.abilities.blocks:
        return None
    if first < model.n_layers and model.abilities.projections:
        layer = model.anatomy.layers[first]
        own = {id(p) for p in layer.module.parameters(recurse=False)}
        if {p for p in changed if uses[p] == first} <= own:
            return AtProjection(model, layer)
    return AtBlock(model, first)
