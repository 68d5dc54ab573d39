"""Injecting two vectors into one block: one into what attention gives to the stream, one into what the MLP gives.

The two stand side by side, attention's first: `delta` and `out` are [b, 2 d]. As with one vector, there is a plain
implementation and one that runs no more than the vectors can change: the block, from the subject's last token on, and
those above it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from edit_robust.core import UserError
from edit_robust.core.projections import is_projection
from edit_robust.models.language.causal_lm import CausalLM
from edit_robust.models.language.hooks import hooked
from edit_robust.models.language.injection import Injection, PlainInjection, TailInjection, adding


def attention_projection(model: CausalLM, layer: str) -> nn.Module:
    """The output projection of the attention in the block of `layer`: the last projection to run that gives as many
    values as the stream has and does not stand in the same part of the block as the MLP's down-projection.

    UserError for a block without one.
    """
    down = model.layers[layer]
    block = model.anatomy.blocks[down.index]
    mlp = next(m for m in block.children() if down.module in set(m.modules()))
    ran: list[nn.Module] = []
    watched = [m for m in block.modules() if is_projection(m) and m not in set(mlp.modules())]

    def note(module: nn.Module, args: tuple[object, ...], output: Tensor) -> None:
        if output.shape[-1] == model.hidden_size:
            ran.append(module)

    ids = torch.zeros(1, 2, dtype=torch.long, device=model.input_device)
    with hooked(*(m.register_forward_hook(note) for m in watched)), torch.no_grad():
        model.hidden(ids)
    if not ran:
        raise UserError(f"block {down.index} of {model.name} has no projection that gives attention's output")
    return ran[-1]


def pair_injection(
    model: CausalLM,
    layer: str,
    rows: Sequence[Sequence[int]],
    positions: Sequence[int],
    reads: Sequence[tuple[int, int]],
    plain: bool | None = None,
) -> Injection:
    """Places to inject two vectors at the block of `layer`; the other arguments are those of `CausalLM.injection`."""
    attention = attention_projection(model, layer)
    if not model.fast if plain is None else plain:
        return PlainPair(model, attention, layer, rows, positions, reads)
    if not model.abilities.tails or max(len(r) for r in rows) > model.window:
        return PlainPair(model, attention, layer, rows, positions, reads, few=True)
    return TailPair(model, attention, layer, rows, positions, reads)


def halves(pair: Float[Tensor, "b two_d"]) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b d"]]:
    """Attention's part and the MLP's."""
    attention, mlp = pair.tensor_split(2, dim=1)
    return attention, mlp


class PlainPair(PlainInjection):
    """Whole sequences through the whole network at every step."""

    def __init__(
        self,
        model: CausalLM,
        attention: nn.Module,
        layer: str,
        rows: Sequence[Sequence[int]],
        positions: Sequence[int],
        reads: Sequence[tuple[int, int]],
        few: bool = False,
    ) -> None:
        self.attention = attention
        seen: dict[str, Tensor] = {}
        with hooked(attention.register_forward_hook(lambda m, a, o: seen.update(given=o.clone()))):
            super().__init__(model, layer, "mlp", rows, positions, reads, few)
        given = seen["given"].reshape(*self.ids.shape, -1)[self.at].float()
        self.out = torch.cat([given, self.out.to(given.device)], 1)

    def read(self, delta: Float[Tensor, "b two_d"]) -> Float[Tensor, "reads v"]:
        attention, mlp = halves(delta)
        with hooked(self.attention.register_forward_hook(adding(attention, self.ids.shape, self.at))):
            return super().read(mlp)


class TailPair(TailInjection):
    """What the two vectors can change; the edited block runs at every step."""

    through_block = True

    def __init__(
        self,
        model: CausalLM,
        attention: nn.Module,
        layer: str,
        rows: Sequence[Sequence[int]],
        positions: Sequence[int],
        reads: Sequence[tuple[int, int]],
    ) -> None:
        self.attention = attention
        seen: dict[str, Tensor] = {}  # of the latest run: prefixes come first where there are any, the tails last
        with hooked(attention.register_forward_hook(lambda m, a, o: seen.update(given=o.clone()))):
            super().__init__(model, layer, "mlp", rows, positions, reads)
        given = seen["given"].reshape(*self.stream.shape[:2], -1)[:, 0].float()
        self.out = torch.cat([given, self.out.to(given.device)], 1)

    def read(self, delta: Float[Tensor, "b two_d"]) -> Float[Tensor, "reads v"]:
        attention, mlp = halves(delta)
        n = len(self.stream)
        at = (torch.arange(n), torch.zeros(n, dtype=torch.long))
        with hooked(self.attention.register_forward_hook(adding(attention, self.stream.shape[:2], at))):
            return super().read(mlp)
