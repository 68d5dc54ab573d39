"""MEMIT (Meng et al. 2023, arXiv 2210.07229): many facts at once, spread over several layers.

    dW = R [(lambda C + K K^T)^-1 K]^T = R [C^-1 K (lambda I + K^T C^-1 K)^-1]^T      (Woodbury; C factored once)

with keys K, residuals R and the way up over the layers of `helpers/family.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from edit_robust.editors.base import State, check_numbers
from edit_robust.editors.language.helpers.family import LayerEditor, LayerProblem
from edit_robust.editors.language.helpers.solves import memit_factored


@dataclass(kw_only=True, eq=False, repr=False)
class Memit(LayerEditor):
    """Mass editing of several layers.

    mom2_update_weight: lambda, the weight of what the layer already holds against the new facts. With 0, requests that
        share a subject have no solution: their edit is refused.
    The other options are those of `LayerEditor`.
    """

    mom2_update_weight: float = 15000.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers({}, {"mom2_update_weight": self.mom2_update_weight})

    def factors(self, problem: LayerProblem, state: State[Any]) -> Float[Tensor, "d_in n"]:
        """(lambda C + K K^T)^-1 K."""
        inverse = state.given.inverses[problem.layer.name]
        return memit_factored(inverse, problem.keys, self.mom2_update_weight)
