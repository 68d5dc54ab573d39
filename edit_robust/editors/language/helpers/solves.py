"""V of dW = R V^T for keys K [d, n]: through factors that are made once, and densely, as the formulas stand.

The factored forms cost d^2 n an edit where the dense ones cost d^3. `Past.solve` (helpers/past.py) is the factored form
with past keys, of MEMIT-Seq and ENCORE and, in the coordinates of the null space, of AlphaEdit.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from edit_robust.editors.language.helpers.moments import Inverse, check_regular


def memit_factored(inverse: Inverse, k: Float[Tensor, "d n"], weight: float) -> Float[Tensor, "d n"]:
    """(weight C + K K^T)^-1 K = C^-1 K (weight I + K^T C^-1 K)^-1, in float64. LinAlgError where there is none."""
    solved = inverse.solve(k)
    n = torch.eye(k.shape[1], dtype=k.dtype, device=k.device)
    penalised = weight * n + k.T @ solved
    check_regular(penalised, "the keys depend on each other, and mom2_update_weight is too small")
    return torch.linalg.solve(penalised, solved.T).T


def emmet_factored(inverse: Inverse, k: Float[Tensor, "d n"], weight: float, ridge: float) -> Float[Tensor, "d n"]:
    """(weight C)^-1 K (K^T (weight C)^-1 K + ridge I)^-1, in float64. LinAlgError where there is none."""
    solved = inverse.solve(k) / weight
    inner = k.T @ solved + ridge * torch.eye(k.shape[1], dtype=k.dtype, device=k.device)
    check_regular(inner, "the keys depend on each other, and ridge is too small")
    return torch.linalg.solve(inner, solved.T).T


def memit_dense(
    moment: Float[Tensor, "d d"], k: Float[Tensor, "d n"], weight: float, past: Float[Tensor, "d d"] | None = None
) -> Float[Tensor, "d n"]:
    """(weight C + K_p K_p^T + K K^T)^-1 K. past: K_p K_p^T; None: there are no past keys."""
    held = weight * moment + k @ k.T
    return torch.linalg.solve(held if past is None else held + past, k)


def emmet_dense(
    moment: Float[Tensor, "d d"], k: Float[Tensor, "d n"], weight: float, ridge: float
) -> Float[Tensor, "d n"]:
    """(weight C)^-1 K (K^T (weight C)^-1 K + ridge I)^-1."""
    solved = torch.linalg.solve(weight * moment, k)
    inner = k.T @ solved + ridge * torch.eye(k.shape[1], dtype=k.dtype, device=k.device)
    return torch.linalg.solve(inner, solved.T).T


def alphaedit_dense(
    projector: Float[Tensor, "d d"], k: Float[Tensor, "d n"], l2: float, past: Float[Tensor, "d d"] | None = None
) -> Float[Tensor, "d n"]:
    """(P (K K^T + K_p K_p^T) + l2 I)^-1 P K."""
    held = k @ k.T if past is None else k @ k.T + past
    return torch.linalg.solve(projector @ held + l2 * torch.eye(len(k), dtype=k.dtype, device=k.device), projector @ k)
