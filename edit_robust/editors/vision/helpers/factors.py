"""Changes of low rank under training: W + s U V^T, of which an optimiser moves U and V.

The network runs with W + s U V^T in the parameter's place, so that whatever uses the weight sees the change: modules
that are called, the fused projections of attention, bare parameters. With G the gradient of the weight, the factors'
gradients are s G V and s G^T U.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from edit_robust.core import Delta, Editable, LowRank, UserError
from edit_robust.core.editable import Snapshot

#: V as it is trained -> V over all inputs of the matrix.
Spread = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Factors:
    """What an optimiser moves, by `parameter.u` and `parameter.v`; the same methods as of `Masters`.

    spread: how a parameter's V becomes one over all inputs of its matrix; names that are not in it: it is that.
    scale:  s above.
    """

    model: Editable
    before: Snapshot
    values: Mapping[str, Tensor]
    spread: Mapping[str, Spread]
    scale: float

    def _terms(self) -> dict[str, LowRank]:
        """s U and the whole V of every parameter."""
        found = {}
        for name in self.before.values:
            u, v = self.values[f"{name}.u"], self.values[f"{name}.v"]
            found[name] = LowRank(self.scale * u, self.spread.get(name, _itself)(v))
        return found

    def take_gradients(self) -> None:
        """Turn the parameters' gradients into the factors'."""
        terms = self._terms()
        reached: list[Tensor] = []
        for name, term in terms.items():
            p = self.model.param(name)
            if p.grad is not None:
                gradient = self.model.as_matrix(name, p.grad).float()
                reached.append((gradient * term.dense()).sum())
                p.grad = None
        values = list(self.values.values())
        if not reached:
            return
        found = torch.autograd.grad(torch.stack(reached).sum(), values, allow_unused=True)
        for value, gradient in zip(values, found, strict=True):
            value.grad = gradient

    @torch.no_grad()
    def write(self) -> None:
        """W + s U V^T into the parameters, rounded once."""
        for name, term in self._terms().items():
            was = self.before.values[name]
            change = self.model.as_stored(name, term.dense())
            self.model.param(name).copy_(was.to(change.dtype) + change)

    @torch.no_grad()
    def change(self) -> Delta:
        """What training has changed so far, as factors in float32."""
        terms = {n: LowRank(t.u.detach().clone(), t.v.detach().clone()) for n, t in self._terms().items()}
        return Delta(terms, self.before.position)


def _itself(v: Tensor) -> Tensor:
    return v


def factors(
    model: Editable,
    before: Snapshot,
    rank: int,
    scale: float,
    start: Callable[[int, int], Float[Tensor, "d_in r"]],
    spread: Mapping[str, tuple[int, Spread]] | None = None,
) -> Factors:
    """Factors of the parameters in a snapshot of the model as it is now: U is zero, so that nothing changes at first.

    rank: at most; a smaller matrix has its own.   start: (d_in, r) -> V at the start.
    spread: by parameter the number of inputs that V is trained over, and how it becomes one over all of them.
    """
    values: dict[str, Tensor] = {}
    spread = spread or {}
    for name, was in before.values.items():
        d_out, d_in = model.as_matrix(name, was).shape
        d_in = spread[name][0] if name in spread else d_in
        r = min(rank, d_out, d_in)
        at = model.param(name).device
        values[f"{name}.u"] = torch.zeros(d_out, r, device=at).requires_grad_()
        values[f"{name}.v"] = start(d_in, r).to(at).requires_grad_()
    return Factors(model, before, values, {name: how for name, (_, how) in spread.items()}, scale)


def matrices(model: Editable, names: Sequence[str], editor: str) -> list[str]:
    """Those of some parameters that are matrices: norms and biases have no rank. UserError where none is one."""
    found = [n for n in names if min(model.matrix(n).shape) > 1]
    if not found:
        some = ", ".join(names[:3])
        raise UserError(f"{editor} changes matrices, and there is none among {some}; give another editor.part")
    return found
