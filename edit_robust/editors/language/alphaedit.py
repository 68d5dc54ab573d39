"""AlphaEdit (Fang et al. 2025, arXiv 2410.02355): edits that what the model knows does not see.

P = U U^T projects onto the directions of a layer's inputs that a corpus hardly uses: the eigenvectors of C with
eigenvalues below a threshold. With past keys K_p,

    dW^T = (P (K K^T + K_p K_p^T) + L2 I)^-1 P K R^T
         = U (L2 I + A_p A_p^T + A A^T)^-1 A R^T        with A = U^T K and A_p = U^T K_p

The second form is symmetric, of the null space's own dimension, and begins with a multiple of the identity: it is
solved in float64 through factors that grow with the edits (`helpers/past.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from edit_robust.core.work import Workspace
from edit_robust.editors.base import check_numbers
from edit_robust.editors.language.helpers.moments import Inverse
from edit_robust.editors.language.helpers.nullspace import null_spaces
from edit_robust.editors.language.helpers.past import Identity, Past
from edit_robust.editors.language.helpers.remembering import RememberingEditor


@dataclass(kw_only=True, eq=False, repr=False)
class AlphaEdit(RememberingEditor):
    """MEMIT's values, written into the null space of what the layer is used for.

    nullspace_threshold: eigenvalues of C below it count as unused. C is a mean over tokens, so that what a threshold
        means depends on the model and the layer: it is best chosen by the rank that it leaves.
    l2: L2, the weight of the update's norm.
    The other options are those of `LayerEditor`.
    """

    name: str = "alphaedit"
    nullspace_threshold: float = 0.02
    l2: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers({"nullspace_threshold": self.nullspace_threshold, "l2": self.l2}, {})

    def pasts(
        self, moments: dict[str, Float[Tensor, "d_in d_in"]], inverses: Mapping[str, Inverse], work: Workspace
    ) -> Mapping[str, Past]:
        """Solves with L2 I on the null space alone."""
        bases = null_spaces(moments, self.nullspace_threshold, work)
        return {n: Past(Identity(self.l2, u.shape[1], u.device), n, u.device, u) for n, u in bases.items()}
