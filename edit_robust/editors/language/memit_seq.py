"""MEMIT that protects the facts that it has written: past keys beside the corpus.

    dW = R K^T (lambda C + K_p K_p^T + K K^T)^-1

K_p are the keys of all edits so far, read when they were made. The baseline of AlphaEdit (Fang et al. 2025,
arXiv 2410.02355) and of what follows it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor

from edit_robust.core.work import Workspace
from edit_robust.editors.base import State, check_numbers
from edit_robust.editors.language.helpers.family import LayerProblem
from edit_robust.editors.language.helpers.moments import Inverse
from edit_robust.editors.language.helpers.past import Past, Scaled
from edit_robust.editors.language.helpers.remembering import RememberingEditor


@dataclass(kw_only=True, eq=False, repr=False)
class MemitSeq(RememberingEditor):
    """MEMIT in a sequence, with past keys.

    mom2_update_weight: lambda, the weight of what the layer already holds against new and past facts.
    mode: `corrected` is the method. The released code of AlphaEdit does not hand the cache of past keys to its
        MEMIT-Seq and ends with a TypeError at the first edit; `public` is what is left without it: MEMIT, edit after
        edit.
    The other options are those of `LayerEditor`.
    """

    name: str = "memit-seq"
    mom2_update_weight: float = 15000.0
    mode: Literal["corrected", "public"] = "corrected"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers({"mom2_update_weight": self.mom2_update_weight}, {})

    def pasts(
        self, moments: dict[str, Float[Tensor, "d_in d_in"]], inverses: Mapping[str, Inverse], work: Workspace
    ) -> Mapping[str, Past]:
        """Solves with lambda C."""
        return {n: Past(Scaled(inverses[n], self.mom2_update_weight), n, c.device) for n, c in moments.items()}

    def factors(self, problem: LayerProblem, state: State[Any]) -> Float[Tensor, "d_in n"]:
        past = state.given.pasts[problem.layer.name]
        pieces: Sequence[Any] = state.carried if self.mode == "corrected" else ()
        return past.solve(pieces, past.coordinates(problem.keys))
