"""EMMET (Gupta, Sajnani and Anumanchipalli 2024, arXiv 2403.14236): MEMIT's values under ROME's equality constraint.

    dW = R (K^T (lambda C)^-1 K + rho I)^-1 K^T (lambda C)^-1

Without the ridge rho every key gets its whole residual, dW K = R, whatever lambda is; the published code has it for
batches alone, so that one fact and many are edited by different rules.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from edit_robust.editors.base import State, check_numbers
from edit_robust.editors.language.helpers.family import LayerEditor, LayerProblem
from edit_robust.editors.language.helpers.solves import emmet_factored


@dataclass(kw_only=True, eq=False, repr=False)
class Emmet(LayerEditor):
    """Equality-constrained mass editing.

    mom2_update_weight: lambda. It matters only beside the ridge: with ridge 1 this is MEMIT, with 0 it has no effect.
    ridge: rho, what is added to the diagonal; with 0, requests that share a subject have no solution.
    ridge_single: whether the ridge holds for a single request, too; the published code has none there.
    The other options are those of `LayerEditor`.
    """

    name: str = "emmet"
    mom2_update_weight: float = 1000.0
    ridge: float = 0.1
    ridge_single: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers({"mom2_update_weight": self.mom2_update_weight}, {"ridge": self.ridge})

    def factors(self, problem: LayerProblem, state: State[Any]) -> Float[Tensor, "d_in n"]:
        """(lambda C)^-1 K (K^T (lambda C)^-1 K + rho I)^-1."""
        rho = self.ridge if problem.keys.shape[1] > 1 or self.ridge_single else 0.0
        inverse = state.given.inverses[problem.layer.name]
        return emmet_factored(inverse, problem.keys, self.mom2_update_weight, rho)
