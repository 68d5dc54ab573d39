"""ENCORE (Gupta et al. 2025, arXiv 2502.01636): MEMIT in a sequence whose weights do not grow.

    dW = R K^T (lambda C + gamma I + K_p K_p^T + K K^T)^-1

gamma holds the norm of the update; and values are not optimised further than it takes: the optimisation stops at the
c-th iteration, in all, in which every sampled context ranks the target first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from edit_robust.core import UserError
from edit_robust.core.work import Workspace
from edit_robust.editors.base import check_numbers
from edit_robust.editors.language.helpers.moments import Inverse
from edit_robust.editors.language.helpers.past import Past
from edit_robust.editors.language.helpers.remembering import RememberingEditor
from edit_robust.editors.language.helpers.values import Cutoff


@dataclass(kw_only=True, eq=False, repr=False)
class Encore(RememberingEditor):
    """MEMIT with past keys, a norm constraint and most-probable early stopping.

    mom2_update_weight: lambda, the weight of what the layer already holds.
    l2: gamma, the weight of the update's norm.
    prob_cutoff: when a value's optimisation ends early. -c: at the c-th iteration, in all, in which every token of the
        target is the likeliest in every sampled context (in the bare prompt, where it is the only one); between 0 and
        1: once the target's probability is above it; null: never.
    The other options are those of `LayerEditor`.
    """

    name: str = "encore"
    mom2_update_weight: float = 15000.0
    l2: float = 10.0
    prob_cutoff: float | None = -4.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers({}, {"mom2_update_weight": self.mom2_update_weight, "l2": self.l2})
        if self.mom2_update_weight == self.l2 == 0:
            raise UserError("editor.mom2_update_weight and editor.l2 are both 0: nothing holds the update back")
        Cutoff.of(self.prob_cutoff)

    def pasts(
        self, moments: dict[str, Float[Tensor, "d_in d_in"]], inverses: Mapping[str, Inverse], work: Workspace
    ) -> Mapping[str, Past]:
        """Solves with lambda C + gamma I, which gets a factor of its own."""
        found = {}
        for name, c in moments.items():
            held = self.mom2_update_weight * c
            held.diagonal().add_(self.l2)
            found[name] = Past(Inverse.of(held), name, c.device)
        return found

    def cutoff(self) -> Cutoff | None:
        return Cutoff.of(self.prob_cutoff)
