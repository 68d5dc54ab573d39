"""RECT (Gu et al. 2024, arXiv 2401.04700): of an edit's change, keep the entries that move their weight most.

With D the change that MEMIT would make, an entry is kept where

    |D_ij / (W_ij + 1e-8)| >= the floor((1 - keep) N)-th smallest such ratio,     N entries, W the weights as they stand

and is 0 elsewhere: N - floor((1 - keep) N) + 1 entries stay. What is written is dense.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from edit_robust.core import Dense, LowRank, UserError
from edit_robust.core.delta import Term
from edit_robust.editors.base import State
from edit_robust.editors.language.helpers.family import LayerProblem
from edit_robust.editors.language.memit import Memit
from edit_robust.models.language.causal_lm import CausalLM

#: What keeps the ratio of a change to a weight of 0 finite.
_EPSILON = 1e-8


@dataclass(kw_only=True, eq=False, repr=False)
class Rect(Memit):
    """MEMIT whose change is cut down to the entries that count.

    keep: the share of entries that is kept; 1 is MEMIT.
    mode: `corrected` cuts each layer when it is written, so that the layers above are fitted to what stays. `public`
        is the released code: all layers are written uncut, and cut only when all are known, which leaves the facts
        short of their values.
    The other options are MEMIT's.
    """

    name: str = "rect"
    keep: float = 0.4
    mode: Literal["corrected", "public"] = "corrected"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.keep <= 1:
            raise UserError(f"editor.keep={self.keep} must be above 0 and at most 1: a share of the entries")

    def term(self, problem: LayerProblem, state: State[Any]) -> Term:
        if self.mode == "public":
            return super().term(problem, state)
        u, v = problem.residual, self.factors(problem, state)
        return self._cut(LowRank(u, v), problem.layer.matrix())

    def finish(self, model: CausalLM, terms: Mapping[str, Term]) -> Mapping[str, Term]:
        if self.mode == "corrected":
            return terms
        return {name: self._cut(term, model.matrix(name)) for name, term in terms.items()}

    def _cut(self, term: Term, w: Float[Tensor, "d_out d_in"]) -> Term:
        """The term with its smaller entries 0; as it is where all are kept or some are not finite."""
        tensors = {k: x.float() for k, x in term.tensors().items()}
        if self.keep == 1 or not all(bool(torch.isfinite(x).all()) for x in tensors.values()):
            return type(term)(**tensors)
        change = type(term)(**{k: x.double() for k, x in term.tensors().items()}).dense()
        return Dense(torch.where(largest_ratios(change, w, self.keep), change, 0.0).float())


def largest_ratios(
    change: Float[Tensor, "d_out d_in"], w: Float[Tensor, "d_out d_in"], keep: float
) -> Float[Tensor, "d_out d_in"]:
    """Which entries of a change are kept (see the top of the file), as a mask; all where none is to be cut."""
    ratio = (change / (w.to(change) + _EPSILON)).abs()
    cut = int(round((1 - keep) * ratio.numel(), 6))  # 0.3 * 10 shall be 3
    if cut == 0:
        return torch.ones_like(ratio, dtype=torch.bool)
    return ratio >= ratio.flatten().kthvalue(cut).values
